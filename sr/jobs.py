"""Files and folder trees, picture by picture: planned first, written whole, failures listed while the rest goes on."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from sr.errors import UserError
from sr.images import SUFFIXES, ImageError, Picture, list_images, read_picture, write_picture
from sr.seeded import seeded

OnTiles = Callable[[int, int], None]


class Job(NamedTuple):
    source: Path
    target: Path


@dataclass(frozen=True)
class Report:
    """What became of the inputs. failed: with reasons. ignored: files in the folders that are no pictures by name."""

    written: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)


def convert(
    inputs: Sequence[Path],
    output: Path,
    work: Callable[[Picture, OnTiles], Picture],
    *,
    title: str,
    format: str | None = None,
    suffix: str = "",
) -> Report:
    """Write `work` of files and folder trees into `output`; a picture that fails is reported and the rest goes on.

    output: a folder that mirrors the trees, or a file name when the input is one file. Files are written aside and
    renamed. format: png, jpg, webp or tif; None keeps each picture's own where that can be written, else png.
    suffix: put behind every stem. work: called with a function for its progress, (done, all); random draws in it
    depend on the file's stem alone. Raises UserError before the first picture when the plan cannot work.
    """
    jobs, ignored = plan(inputs, output, format=format, suffix=suffix)
    report = Report(ignored=ignored)
    with tqdm(jobs, unit="picture", desc=title, disable=None) as bar:
        for job in bar:

            def show(done: int, tiles: int, name: str = job.source.name) -> None:
                bar.set_postfix_str(f"{name} {done}/{tiles}")

            try:
                picture = read_picture(job.source)
                with seeded(job.source.stem):
                    made = work(picture, show)
                job.target.parent.mkdir(parents=True, exist_ok=True)
                write_picture(job.target, made)
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
