"""Validation of a network on image sets, shared over the ranks: run, measure, and draw the first images."""

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from sr.config.options import RGB_METRICS
from sr.core.errors import UserError
from sr.core.progress import progress
from sr.distributed.comm import gather, is_main, rank, world
from sr.distributed.rng import fork_rng
from sr.evaluate.metrics import METRICS
from sr.evaluate.validate.sets import Example, Item, ValSet, border_of
from sr.evaluate.validate.sheet import Cells, captions, cells, sheet, zoomed
from sr.images import color

Scores = dict[str, float]
RGB = 3  # channels
T = TypeVar("T")


class ValidationFailed(UserError):
    """An image could not be read or measured. Raised on all ranks alike, with what the rank that failed reports."""


@dataclass(frozen=True)
class Row:
    """The scores of one image by metric, without metrics that it is too small for.

    given: the scores of its unprocessed input, where requested and where input and target have the same shape.
    """

    set: str
    name: str
    scores: Scores
    given: Scores = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """The results of one validation.

    rows: in the order of the sets. images: "set/name" -> a strip of input, output and target, with a detail below;
    sheets: set -> the images of the set without details; both uint8 [h, w, 3]. left_out: metric -> why it could not be
    measured on all or some images. scale: of the model; set by `sr.evaluate`.
    """

    rows: list[Row]
    images: dict[str, np.ndarray]
    sheets: dict[str, np.ndarray] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    scale: int | None = None

    @property
    def means(self) -> dict[str, Scores]:
        """Return {set: {metric: mean over the images that have it}}."""
        return _means({(row.set, row.name): row.scores for row in self.rows})

    @property
    def given_means(self) -> dict[str, Scores]:
        """Return `means` of the unprocessed inputs, without sets in which an input cannot be measured."""
        missing = {row.set for row in self.rows if not row.given}
        return _means({(row.set, row.name): row.given for row in self.rows if row.set not in missing})

    def first_measured(self, metrics: Sequence[str]) -> str | None:
        """Return the first of `metrics` that was measured on any set, or None."""
        return next((metric for metric in metrics if any(metric in row for row in self.means.values())), None)


def _means(scores: Mapping[tuple[str, str], Scores]) -> dict[str, Scores]:
    sets: dict[str, list[Scores]] = {}
    for (name, _), row in scores.items():
        sets.setdefault(name, []).append(row)
    metrics = {name: dict.fromkeys(metric for row in rows for metric in row) for name, rows in sets.items()}
    return {
        name: {metric: fmean(row[metric] for row in rows if metric in row) for metric in metrics[name]}
        for name, rows in sets.items()
    }


@torch.no_grad()
def evaluate(
    run: Callable[[Tensor], Tensor],
    sets: Sequence[ValSet],
    *,
    scale: int,
    metrics: Sequence[str] = ("psnr_y", "ssim_y"),
    images: int = 0,
    inputs: bool = False,
    border: int | None = None,
) -> Results:
    """Measure `run` on every image of the sets. The ranks share the images; all return the same results. Collective.

    Args:
        run: float [1, c, h, w] on the host -> [1, C, h*scale, w*scale] on any device, where it is measured.
            It must not wait for other ranks.
            Its random draws depend on the image's name only.
        metrics: those whose weights are missing on any rank are left out. Lab images are measured as RGB.
        images: draw this many images of each set.
        inputs: also measure the unprocessed inputs, where they have the target's shape or are grey.
        border: pixels left out on every side; None for `scale` where the network upscales, else 0.

    An item without ground truth is drawn, but not measured. When one rank fails, all raise ValidationFailed.
    """
    missing = {name: why for name in metrics if (why := METRICS[name].missing()) is not None}
    left_out = {name: why for reasons in reversed(gather(missing)) for name, why in reasons.items()}
    counted = [name for name in metrics if name not in left_out]
    border = border_of(scale) if border is None else border
    measure = partial(_measure, run, border=border, metrics=counted, inputs=inputs)
    jobs = [(val.name, item, number < images) for val in sets for number, item in enumerate(val.items)]
    measured = _shared(measure, jobs)
    drawn: dict[str, dict[str, Cells]] = {}
    for row, shown, _ in measured:
        if shown is not None:
            drawn.setdefault(row.set, {})[row.name] = shown
    heads = captions(scale)
    return Results(
        rows=[row for row, *_ in measured],
        images={
            f"{val}/{name}": sheet([c, zoomed(c)], heads) for val, rows in drawn.items() for name, c in rows.items()
        },
        sheets={val: sheet(list(rows.values()), heads) for val, rows in drawn.items()},
        left_out=left_out | _not_measured([(row, channels) for row, _, channels in measured if channels], counted),
    )


def _not_measured(rows: Sequence[tuple[Row, int]], metrics: Sequence[str]) -> dict[str, str]:
    """Return why metrics are missing for some rows, which come with the number of channels of their images."""
    reasons: dict[str, str] = {}
    for metric in metrics:
        lacking = [channels for row, channels in rows if metric not in row.scores]
        others = sorted({channels for channels in lacking if channels != RGB}) if metric in RGB_METRICS else []
        if others:
            reasons[metric] = f"it is for grey and RGB images, not for {' or '.join(map(str, others))} channels"
        elif lacking:
            reasons[metric] = f"{len(lacking)} of {len(rows)} images are too small for it"
    return reasons


def check_images(sets: Sequence[ValSet]) -> None:
    """Decode every image of the sets, shared over the ranks. Raises ValidationFailed on all ranks. Collective."""
    _shared(lambda item: item.load() and None, [item for val in sets for item in val.items], title="check images")


MeasureJob = tuple[str, Item, bool]


class _Measured(NamedTuple):
    """channels: of the image that was measured; 0 where nothing was."""

    row: Row
    cells: Cells | None
    channels: int = 0


J = TypeVar("J")


def _shared(measure: Callable[[J], T], jobs: Sequence[J], *, title: str = "validate") -> list[T]:
    """Return `measure` of every job; each is done by one rank and sent to all. Collective."""
    found: dict[int, T] = {}
    failure: Exception | None = None
    try:
        for job in progress(range(rank(), len(jobs), world()), desc=title, leave=False, show=is_main()):
            found[job] = measure(jobs[job])
    except Exception as error:  # the other ranks must be informed before it is raised
        failure = error
    everyone = gather((found, None if failure is None else _reason(failure)))
    if failure is not None:
        raise ValidationFailed(_reason(failure)) from failure
    for number, (_, reason) in enumerate(everyone):
        if reason is not None:
            raise ValidationFailed(f"validation failed on rank {number}: {reason}")
    merged = {job: measured for part, _ in everyone for job, measured in part.items()}
    return [merged[job] for job in range(len(jobs))]


def _reason(failure: Exception) -> str:
    """Return the failure in one sentence; for an error in the program, print its traceback too."""
    if isinstance(failure, UserError):
        return str(failure)
    if isinstance(failure, OSError):
        return f"{failure.filename or 'a file'}: {failure.strerror or failure}; restore the file"
    if isinstance(failure, torch.OutOfMemoryError):
        return f"{str(failure).partition('. ')[0]}; validate on smaller images"
    traceback.print_exception(failure)
    return f"{type(failure).__name__}: {failure}; please report the traceback above"


def _measure(
    run: Callable[[Tensor], Tensor], job: MeasureJob, *, border: int, metrics: Sequence[str], inputs: bool
) -> _Measured:
    example = job[1].load()
    with fork_rng(job[1].name):  # the same draws as `sr translate` for a file of that stem
        output = run(example.lq[None])[0].float()
    try:
        return _scored(job, example.to(output.device), output, border=border, metrics=metrics, inputs=inputs)
    except torch.OutOfMemoryError:  # next to the training state; the host holds more
        if output.device.type == "cpu":
            raise
    return _scored(job, example, output.cpu(), border=border, metrics=metrics, inputs=inputs)


def _scored(
    job: MeasureJob, example: Example, output: Tensor, *, border: int, metrics: Sequence[str], inputs: bool
) -> _Measured:
    """Measure and draw an output on the device that holds it."""
    name, item, draw = job
    if example.gt is None:
        return _Measured(Row(name, item.name, {}), cells(example.lq, output) if draw else None)
    if output.shape != example.gt.shape:
        expected, found = (f"{x.shape[-1]}x{x.shape[-2]} of {x.shape[-3]} channels" for x in (example.gt, output))
        raise UserError(f"{item.place}: the model returns {found}, not {expected}; set scale to that of the model")
    given, made, wanted = _images(example.lq, output, example.gt, example.colours)

    def scores(image: Tensor) -> Scores:
        fitting = [metric for metric in metrics if wanted.shape[0] == RGB or metric not in RGB_METRICS]
        found = [METRICS[metric].compute(image, wanted, border=border) for metric in fitting]
        together = torch.stack(
            [
                torch.as_tensor(value, device=image.device, dtype=torch.float64)
                for value in [*found, image.isfinite().all()]
            ]
        )
        *values, finite = together.tolist()  # one copy; a broken output keeps its nan, so that the mean shows it
        kept = zip(fitting, values, strict=True)
        return {metric: value for metric, value in kept if not (finite and math.isnan(value))}

    row = Row(name, item.name, scores(made), scores(given) if inputs and given.shape == wanted.shape else {})
    return _Measured(row, cells(given, made, wanted) if draw else None, wanted.shape[0])


def _images(lq: Tensor, output: Tensor, gt: Tensor, colours: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return input, output and target as RGB: Lab and grey are converted, and a Lab input has no colour."""
    if colours == "lab":
        return color.colorized(lq, torch.full_like(gt, 0.5)), color.colorized(lq, output), color.colorized(lq, gt)
    given, made, wanted = (x.expand(3, -1, -1) if x.shape[0] == 1 else x for x in (lq, output, gt))
    return given, made, wanted
