"""Measure a model, or images that were upscaled already, on image sets: the implementation of `sr validate`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as td

from sr.core.errors import UserError, nearest
from sr.data.colorize import Colorize
from sr.data.folder import FolderSource
from sr.data.paired import Paired, SideBySide
from sr.data.paths import image_paths
from sr.distributed import comm
from sr.evaluate.metrics import METRICS, SUPER_RESOLUTION, TRANSLATION
from sr.evaluate.validate import Results, ValSet, evaluate, output_set, source_set, val_set
from sr.evaluate.validate.usual import set_names, usual_sets
from sr.images import WRITE_SUFFIXES, write_rgb
from sr.inference.tiling import check_overlap, tiled
from sr.inference.translate import trained_direction
from sr.inference.upscale import pick_model
from sr.inference.zoo import locate
from sr.nets.io.load import Direction, Model, open_model

SET = "images"  # the name of the one set of a translation
TIMEOUT = 600.0  # seconds that a process may be silent


@dataclass(frozen=True)
class Images:
    """The images to measure on, given in one of four ways.

    hr: folders of ground truth; `lr` or `outputs` (upscaled already) has as many, or lr is made from hr. sets: folders
    of benchmark sets. a, b: two folders of translation pairs. side_by_side: files with both images of a pair.
    size: a and b are resized to size x size first.
    """

    hr: Sequence[str] = ()
    lr: Sequence[str] = ()
    outputs: Sequence[str] = ()
    sets: Sequence[str] = ()
    a: str | None = None
    b: str | None = None
    side_by_side: str | None = None
    size: int | None = None

    def check(self) -> None:
        ways = (self.hr or self.lr or self.outputs, self.sets, self.a or self.b, self.side_by_side)
        lone = (self.lr or self.outputs) and not self.hr
        if sum(bool(way) for way in ways) != 1 or lone or bool(self.a) != bool(self.b):
            raise UserError("name the images in one way: --hr (and --lr), --sets, --a and --b, or --side-by-side")
        for flag, given in (("--lr", self.lr), ("--outputs", self.outputs)):
            if given and len(given) != len(self.hr):
                raise UserError(f"{flag} is given {len(given)} times and --hr {len(self.hr)} times; give one for each")
        if self.lr and self.outputs:
            raise UserError("--outputs are measured as they are; leave out --lr")

    def made(self, scale: int) -> list[ValSet]:
        """Return the sets of outputs and their ground truth."""
        rows = zip(set_names(self.hr), self.hr, self.outputs, strict=True)
        return [output_set(name, hr=image_paths(hr), outputs=image_paths(out), scale=scale) for name, hr, out in rows]

    def of(self, model: Model, direction: Direction) -> list[ValSet]:
        """Return the sets for a model; for one that colorizes gray images, pairs are made from `hr`."""
        if self.hr or self.sets:
            colours = model.scale == 1 and self.hr and not self.lr
            return [self._colouring(model, list(self.hr))] if colours else self._files(model)
        if model.scale > 1:
            raise UserError(f"{model.name} upscales; give --hr (and --lr)")
        if model.colours == "lab":
            raise UserError(f"{model.name} colours photographs; give them with --hr")
        channels = model.channels, model.out_channels
        channels = channels if direction == "a_to_b" else channels[::-1]
        if self.side_by_side is not None:
            source: Any = SideBySide(path=self.side_by_side, channels=channels)
        else:
            source = Paired(a=str(self.a), b=str(self.b), channels=channels)
        return [source_set(SET, source, direction=direction, size=self.size)]

    def _files(self, model: Model) -> list[ValSet]:
        if self.size is not None:
            raise UserError("--size is for --a and --b or --side-by-side; leave it out")
        if model.colours == "lab":
            raise UserError(f"{model.name} colours photographs; give them with --hr alone")
        usual = [found for folder in self.sets for found in usual_sets(folder, scale=model.scale)]
        low: list[list[Path] | None] = [image_paths(lr) for lr in self.lr] if self.lr else [None for _ in self.hr]
        given = zip(set_names(self.hr), map(image_paths, self.hr), low, strict=True)
        how: dict[str, Any] = {"scale": model.scale, "channels": (model.channels, model.out_channels)}
        return [val_set(name, hr=hr, lr=lr, **how) for name, hr, lr in [*usual, *given]]

    def _colouring(self, model: Model, hr: list[str]) -> ValSet:
        if model.colours == "edges" or (model.colours != "lab" and (model.channels, model.out_channels) != (1, 3)):
            raise UserError(f"{model.name} needs images to start from; give --lr too, --a and --b, or --side-by-side")
        space: Any = "lab" if model.colours == "lab" else "rgb"
        source = Colorize(of=partial(FolderSource, gt=hr), space=space)
        return source_set(SET, source, size=self.size, colours=space)


def pick(name: str, *, scale: int | None, direction: Direction | None) -> tuple[Model, Direction]:
    """Return the model of a name or file, or bicubic, and its direction: as given, else as trained, else a_to_b."""
    if name == "bicubic":
        return pick_model(name, scale=scale), "a_to_b"
    file = locate(name)
    chosen = direction or trained_direction(file)
    return open_model(file, expect_scale=scale, direction=chosen), chosen


def join() -> None:
    """Join the process group of the launch, if there is one, to share the images. Collective."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not td.is_initialized():
        comm.meet(TIMEOUT)
        comm.resumes(lambda: "the beginning")
        td.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT))  # scores are numbers on the host


def shutdown() -> None:
    """Leave the process group. Collective."""
    comm.shutdown()
    if td.is_initialized():
        td.destroy_process_group()


def score(
    model: Model,
    images: Images,
    *,
    direction: Direction = "a_to_b",
    metrics: Sequence[str] | None = None,
    tile: int,
    overlap: int,
    device: torch.device,
    sheet: str | None = None,
    rows: int = 8,
) -> Results:
    """Measure a model on images. Collective.

    metrics: default: those that papers report. sheet: file for a contact sheet of the first `rows` images of one set.
    """
    check_overlap(tile, overlap)
    names = known(metrics, upscales=model.scale > 1)
    if sheet is not None and Path(sheet).suffix.lower() not in WRITE_SUFFIXES:
        raise UserError(f"{sheet}: cannot write that; end the name in one of {', '.join(WRITE_SUFFIXES)}")
    sets, net = images.of(model, direction), model.net.to(device)
    if sheet is not None and len(sets) > 1:
        raise UserError(f"{sheet}: a contact sheet shows one set, not {len(sets)}; give one --hr")
    settings: dict[str, Any] = {"multiple": model.multiple, "tile": tile, "overlap": overlap, "device": device}
    run = partial(tiled, net, scale=model.scale, **settings)
    drawn = rows if sheet is not None else 0
    results = evaluate(run, sets, scale=model.scale, metrics=names, images=drawn, inputs=model.scale == 1)
    if sheet is not None and comm.is_main():
        write_rgb(sheet, results.sheets[sets[0].name])
    return results


def score_outputs(images: Images, *, scale: int, metrics: Sequence[str] | None = None) -> Results:
    """Measure images that were upscaled `scale` times by any program. Collective."""
    names = known(metrics, upscales=True)
    return evaluate(lambda made: made, images.made(scale), scale=1, metrics=names, border=scale)


def known(metrics: Sequence[str] | None, *, upscales: bool) -> Sequence[str]:
    """Return the requested metrics, by default those that papers report. Raises UserError for an unknown one."""
    names = metrics or (SUPER_RESOLUTION if upscales else TRANSLATION)
    for name in names:
        if name not in METRICS:
            raise UserError(f"no metric '{name}'. Known: {', '.join(METRICS)}.{nearest(name, list(METRICS))}")
    return names
