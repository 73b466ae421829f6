"""A model in a file, measured on pictures: the work of `sr validate`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sr.construct import nearest
from sr.data.colorize import Colorize
from sr.data.folder import FolderSource
from sr.data.paths import image_paths
from sr.data.translation import Paired, SideBySide
from sr.errors import UserError
from sr.images import SUFFIXES, write_rgb
from sr.metrics import METRICS, SUPER_RESOLUTION, TRANSLATION
from sr.nets.models import Direction, Model, open_model
from sr.tiles import check_overlap, tiled
from sr.translate import trained_direction
from sr.upscale import pick_model
from sr.validate import Results, ValSet, evaluate, source_set, val_set

SET = "images"


@dataclass(frozen=True)
class Pictures:
    """Which pictures, in one of three ways: hr (with lr, or made from it), a and b, or files that hold both side by
    side. size: a and b are resized to size x size first."""

    hr: str | None = None
    lr: str | None = None
    a: str | None = None
    b: str | None = None
    side_by_side: str | None = None
    size: int | None = None

    def check(self) -> None:
        ways = (self.hr or self.lr, self.a or self.b, self.side_by_side)
        if sum(way is not None for way in ways) != 1 or (self.lr and not self.hr) or bool(self.a) != bool(self.b):
            raise UserError("say which pictures in one way: --hr (and --lr), --a and --b, or --side-by-side")

    def of(self, model: Model, direction: Direction) -> ValSet:
        """The set for a model; of one that colours grey pictures, `hr` alone makes pairs out of photographs."""
        if self.hr is not None:
            colours = model.scale == 1 and self.lr is None
            return self._colouring(model, self.hr) if colours else self._files(model, self.hr)
        if model.scale > 1:
            raise UserError(f"{model.name} enlarges; give --hr (and --lr)")
        if model.colours == "lab":
            raise UserError(f"{model.name} colours photographs; give them with --hr")
        channels = model.channels, model.out_channels
        channels = channels if direction == "a_to_b" else channels[::-1]
        if self.side_by_side is not None:
            source: Any = SideBySide(path=self.side_by_side, channels=channels)
        else:
            source = Paired(a=str(self.a), b=str(self.b), channels=channels)
        return source_set(SET, source, direction=direction, size=self.size)

    def _files(self, model: Model, hr: str) -> ValSet:
        if (model.channels, model.out_channels) != (3, 3) or self.size is not None:
            raise UserError(f"{model.name}: --hr and --lr are RGB of their own size; give --a and --b")
        return val_set(SET, hr=image_paths(hr), lr=image_paths(self.lr) if self.lr else None, scale=model.scale)

    def _colouring(self, model: Model, hr: str) -> ValSet:
        if model.colours != "lab" and (model.channels, model.out_channels) != (1, 3):
            raise UserError(f"{model.name} needs pictures to start from; give --lr too, --a and --b, or --side-by-side")
        space: Any = "lab" if model.colours == "lab" else "rgb"
        source = Colorize(of=partial(FolderSource, gt=hr), space=space)
        return source_set(SET, source, size=self.size, colours=space)


def pick(name: str, *, scale: int | None, direction: Direction | None) -> tuple[Model, Direction]:
    """The model in a file of any kind, or bicubic, and its direction: as said, else as it was trained, else a_to_b."""
    if name == "bicubic":
        return pick_model(name, scale=scale), "a_to_b"
    chosen = direction or trained_direction(name)
    return open_model(name, expect_scale=scale, direction=chosen), chosen


def score(
    model: Model,
    pictures: Pictures,
    *,
    direction: Direction = "a_to_b",
    metrics: Sequence[str] | None = None,
    tile: int,
    overlap: int,
    device: torch.device,
    sheet: str | None = None,
    rows: int = 8,
) -> Results:
    """metrics: None for those of the trade. sheet: the file of a contact sheet of the first `rows` pictures."""
    check_overlap(tile, overlap)
    names = metrics or (SUPER_RESOLUTION if model.scale > 1 else TRANSLATION)
    for name in names:
        if name not in METRICS:
            raise UserError(f"no metric '{name}'. Known: {', '.join(METRICS)}.{nearest(name, list(METRICS))}")
    if sheet is not None and Path(sheet).suffix.lower() not in SUFFIXES:
        raise UserError(f"{sheet}: cannot write that; end the name in one of {', '.join(SUFFIXES)}")
    pairs, net = pictures.of(model, direction), model.net.to(device)
    settings: dict[str, Any] = {"multiple": model.multiple, "tile": tile, "overlap": overlap, "device": device}
    run = partial(tiled, net, scale=model.scale, **settings)
    drawn = rows if sheet is not None else 0
    results = evaluate(run, [pairs], scale=model.scale, metrics=names, pictures=drawn, inputs=model.scale == 1)
    if sheet is not None:
        write_rgb(sheet, results.sheets[SET])
    return results


def lines(results: Results) -> list[str]:
    """A table for people: a line for each picture, the mean, and the mean of the inputs as they are."""
    rows = [(row.name, row.scores) for row in results.rows] + [("mean", results.means[SET])]
    rows += [("input", given) for given in results.given_means.values()]
    width = max(24, *(len(name) for name, _ in rows))
    return [f"{name:{width}s}" + "".join(f"  {key} {value:9.4f}" for key, value in row.items()) for name, row in rows]


def table(results: Results) -> dict[str, Any]:
    """The same for JSON, which has no infinity: the PSNR of equal images becomes null."""
    content = {"mean": results.means[SET], "images": {row.name: row.scores for row in results.rows}}
    content["input"], content["left_out"] = results.given_means.get(SET, {}), results.left_out
    plain: dict[str, Any] = _plain({key: value for key, value in content.items() if value})
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
