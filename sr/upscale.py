"""Pictures, files or folder trees, through a trained generator."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sr import bicubic
from sr.errors import UserError
from sr.images import SUFFIXES, ImageError, Picture, list_images, read_picture, write_picture
from sr.nets.models import Model, open_model
from sr.tiles import check_overlap, tiled

TILE, OVERLAP = 256, 32  # input pixels


class Job(NamedTuple):
    source: Path
    target: Path


@dataclass(frozen=True)
class Report:
    """What became of the inputs. failed: with reasons. ignored: files in the folders that are no pictures by name."""

    written: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)


# ---- models ----------------------------------------------------------------------------------------------------------


class Bicubic(nn.Module):
    """MATLAB's bicubic enlargement in the place of a generator: what every generator has to beat."""

    def __init__(self, *, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return bicubic.resize(x, scale=self.scale)


def pick_model(name: str, *, scale: int | None = None) -> Model:
    """The model in a file, or the word `bicubic`. Raises UserError when it is not of `scale`, or not for RGB."""
    if name == "bicubic":
        if scale is None:
            raise UserError("bicubic has no scale of its own; say which with --scale 4")
        return Model(Bicubic(scale=scale), scale, 1, f"bicubic x{scale}")
    model = open_model(name, expect_scale=scale)
    if model.channels != 3:
        raise UserError(f"{name} takes {model.channels} channels where pictures have 3; give a model for RGB")
    return model


# ---- one picture -----------------------------------------------------------------------------------------------------


def enlarge(
    picture: Picture,
    model: Model,
    *,
    tile: int = TILE,
    overlap: int = OVERLAP,
    device: torch.device | str = "cpu",
    on_tiles: Callable[[int, int], None] | None = None,
) -> Picture:
    """The picture model.scale times larger, of the same kind: gray stays gray, 16 bit stays 16 bit, alpha is kept.

    The network sees the colours under transparent pixels too; alpha itself is enlarged by bicubic.
    Raises UserError where the network returns numbers that are no picture.
    """
    options = {"scale": model.scale, "tile": tile, "overlap": overlap, "multiple": model.multiple}
    rgb = tiled(model.net, picture.rgb[None], device=device, on_tiles=on_tiles, **options)[0]
    if not torch.isfinite(rgb).all():
        raise UserError(f"{model.name} returned values that are not finite; the model is broken, give another")
    alpha = None if picture.alpha is None else bicubic.resize(picture.alpha, scale=model.scale).clamp(0, 1)
    return dataclasses.replace(picture, rgb=rgb.clamp(0, 1), alpha=alpha)


# ---- many ------------------------------------------------------------------------------------------------------------


def upscale(
    inputs: Sequence[Path],
    output: Path,
    model: Model,
    *,
    tile: int = TILE,
    overlap: int = OVERLAP,
    device: torch.device | str = "cpu",
    format: str | None = None,
    suffix: str = "",
) -> Report:
    """Enlarge files and folder trees into `output`; a picture that fails is reported and the rest goes on.

    output: a folder that mirrors the trees, or a file name when the input is one file. Files are written aside and
    renamed. format: png, jpg, webp or tif; None keeps each picture's own where that can be written, else png.
    suffix: put behind every stem. Raises UserError before the first picture when the plan cannot work.
    """
    check_overlap(tile, overlap)
    jobs, ignored = plan(inputs, output, format=format, suffix=suffix)
    report = Report(ignored=ignored)
    model.net.to(device)
    with tqdm(jobs, unit="picture", desc=model.name, disable=None) as bar:
        for job in bar:

            def show(done: int, tiles: int, name: str = job.source.name) -> None:
                bar.set_postfix_str(f"{name} {done}/{tiles}")

            try:
                picture = read_picture(job.source)
                larger = enlarge(picture, model, tile=tile, overlap=overlap, device=device, on_tiles=show)
                job.target.parent.mkdir(parents=True, exist_ok=True)
                write_picture(job.target, larger)
            except Exception as error:  # whatever is wrong with one picture must not cost the others
                logging.getLogger(__name__).debug("%s", job.source, exc_info=True)
                reason = error.reason if isinstance(error, ImageError) else str(error) or type(error).__name__
                report.failed.append((job.source, reason))
            else:
                report.written.append(job.target)
    return report


def plan(inputs: Sequence[Path], output: Path, *, format: str | None, suffix: str) -> tuple[list[Job], list[Path]]:
    """Which picture goes where, and the files that are passed over. No two targets are equal, none is an input."""
    found, ignored = _sources(inputs, output)
    if not found:
        raise UserError(f"no pictures in {', '.join(map(str, inputs))}; give pictures or a folder with some")
    if len(inputs) == 1 and inputs[0].is_file() and output.suffix and not output.is_dir():
        if format or suffix:
            raise UserError(f"{output} names the file itself; leave out --format and --suffix, or give a folder")
        if output.suffix.lower() not in SUFFIXES:
            raise UserError(f"{output}: cannot write '{output.suffix}'; end the name in one of {', '.join(SUFFIXES)}")
        jobs = [Job(inputs[0], output)]
    elif output.is_file():
        raise UserError(f"{output} is a file; give a folder to write to")
    else:
        jobs = _targets(found, output, format, suffix)
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.target.resolve() in sources:
            raise UserError(f"{job.target} would overwrite an input; give another output folder, or --suffix _x4")
    return jobs, ignored


def _sources(inputs: Sequence[Path], output: Path) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """(file, its place below the input it was found in) without repeats, and the files that are no pictures."""
    found: dict[Path, tuple[Path, Path]] = {}
    ignored: list[Path] = []
    for given in inputs:
        if given.is_file():
            found.setdefault(given.resolve(), (given, Path(given.name)))
        elif given.is_dir():
            earlier = output if given.resolve() in output.resolve().parents else None  # what an earlier run wrote there
            pictures = list_images(given)
            for path in _outside(earlier, pictures):
                found.setdefault(path.resolve(), (path, path.relative_to(given)))
            others = {path for path in given.rglob("*") if path.is_file()} - set(pictures)
            ignored += _outside(earlier, sorted(path for path in others if not _hidden(path.relative_to(given))))
        else:
            raise UserError(f"{given}: there is no such file or folder; correct the path")
    return list(found.values()), ignored


def _hidden(place: Path) -> bool:
    return any(part.startswith(".") for part in place.parts)


def _outside(folder: Path | None, paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if folder is None or folder.resolve() not in path.resolve().parents]


def _targets(found: Sequence[tuple[Path, Path]], output: Path, format: str | None, suffix: str) -> list[Job]:
    """Names by stem; where several inputs share one (a.png, a.jpg), each carries its old ending: a_png, a_jpg."""
    endings = [_ending(source, format) for source, _ in found]
    plain = [_named(place, suffix + ending) for (_, place), ending in zip(found, endings, strict=True)]
    shared = Counter(_key(name) for name in plain)
    taken: set[str] = set()
    jobs = []
    for (source, place), ending, name in zip(found, endings, plain, strict=True):
        number = 1
        while _key(name) in taken or (number == 1 and shared[_key(name)] > 1):
            again = f"_{number}" if number > 1 else ""
            name = _named(place, f"_{place.suffix[1:]}{again}{suffix}{ending}")
            number += 1
        taken.add(_key(name))
        jobs.append(Job(source, output / name))
    return jobs


def _ending(source: Path, format: str | None) -> str:
    ending = f".{format}" if format else source.suffix
    return ending if ending.lower() in SUFFIXES else ".png"


def _named(place: Path, rest: str) -> Path:
    return place.with_name(place.stem + rest)


def _key(name: Path) -> str:
    """Equal where a disk that ignores case would see one file."""
    return name.as_posix().casefold()
