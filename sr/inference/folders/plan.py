"""Which image goes where: files, folder trees, lists and shards in; a tree of names that never collide out."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sr.core.errors import UserError
from sr.images import READ_SUFFIXES, WRITE_SUFFIXES, list_images
from sr.inference.folders.tars import members

IMAGES = READ_SUFFIXES
VIDEOS = (".mp4", ".mkv", ".mov", ".m4v", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv")
VIDEOS_OUT = (".mp4", ".mkv", ".mov", ".m4v")
TAR = ".tar"
LISTS = "list:", "@"

# Pixels in a byte of a file, roughly: enough to tell what takes long.
_DENSITY = {".jpg": 4.0, ".jpeg": 4.0, ".webp": 6.0, ".png": 0.6} | dict.fromkeys(VIDEOS, 200.0)


class ConversionJob(NamedTuple):
    """source: a file, or the tar that holds the image: `member`, `size` bytes from `offset` on."""

    source: Path
    target: Path
    size: int = 0
    offset: int = 0
    member: str = ""

    @property
    def label(self) -> Path:
        """For people."""
        return self.source / self.member if self.member else self.source

    @property
    def stem(self) -> str:
        return self.label.stem

    @property
    def is_video(self) -> bool:
        return self.label.suffix.lower() in VIDEOS

    @property
    def kind(self) -> str:
        """By what changes its output: a film's settings, the quality of a lossy format, or neither."""
        lossy = self.target.suffix.lower() in (".jpg", ".jpeg", ".webp")
        return "video" if self.is_video else "lossy" if lossy else "exact"

    @property
    def cost(self) -> float:
        """How much there is to do, in pixels, guessed by the file's size."""
        return self.size * _DENSITY.get(self.label.suffix.lower(), 0.33)


class _Found(NamedTuple):
    """place: below the input it was found in."""

    source: Path
    place: Path
    size: int
    offset: int = 0
    member: str = ""


class ConversionPlan(NamedTuple):
    """jobs: largest first. ignored: files that are no images by name. folder: where the records are, if anywhere.
    refused: what no job could be made of, with reasons."""

    jobs: list[ConversionJob]
    ignored: list[Path]
    refused: list[tuple[Path, str]]
    folder: Path | None


def plan(inputs: Sequence[Path], output: Path, *, format: str | None, suffix: str) -> ConversionPlan:
    """What is to be done. No two targets are equal, none is an input. Raises UserError where that cannot be."""
    found, ignored, refused = _sources(inputs, output)
    if not found and not refused:
        raise UserError(f"no images in {', '.join(map(str, inputs))}; give images or a folder with some")
    folder: Path | None = output
    if len(inputs) == 1 and _is_image(inputs[0]) and output.suffix and not output.is_dir():
        jobs, folder = [ConversionJob(found[0].source, _single(found[0], output, format, suffix), found[0].size)], None
    elif output.is_file():
        raise UserError(f"{output} is a file; give a folder to write to")
    else:
        jobs = _targets(found, output, format, suffix)
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.target.resolve() in sources:
            raise UserError(f"{job.target} would overwrite an input; give another output folder, or --suffix _x4")
    jobs.sort(key=lambda job: -job.cost)
    return ConversionPlan(jobs, ignored, refused, folder)


def _is_image(given: Path) -> bool:
    return given.is_file() and given.suffix.lower() != TAR


def _single(found: _Found, output: Path, format: str | None, suffix: str) -> Path:
    if format or suffix:
        raise UserError(f"{output} names the file itself; leave out --format and --suffix, or give a folder")
    allowed = VIDEOS_OUT if found.source.suffix.lower() in VIDEOS else WRITE_SUFFIXES
    if output.suffix.lower() not in allowed:
        raise UserError(f"{output}: cannot write '{output.suffix}'; end the name in one of {', '.join(allowed)}")
    return output


# ---- what there is ---------------------------------------------------------------------------------------------------


def _sources(inputs: Sequence[Path], output: Path) -> tuple[list[_Found], list[Path], list[tuple[Path, str]]]:
    """What was found, without repeats; the files that are no images; and what is refused, with reasons."""
    found: dict[tuple[Path, str], _Found] = {}
    ignored: list[Path] = []
    refused: list[tuple[Path, str]] = []
    for path, place in _named_files(inputs, output, ignored):
        if path.suffix.lower() != TAR:
            found.setdefault((path.resolve(), ""), _Found(path, place, _size(path)))
            continue
        try:
            inside, bad = members(path, IMAGES)
        except UserError as error:
            refused.append((path, str(error)))
            continue
        refused += [(path / name, reason) for name, reason in bad]
        for one in inside:
            below = place.with_suffix("") / one.name
            found.setdefault((path.resolve(), one.name), _Found(path, below, one.size, one.offset, one.name))
    return list(found.values()), ignored, refused


def _named_files(inputs: Sequence[Path], output: Path, ignored: list[Path]) -> Iterator[tuple[Path, Path]]:
    """(file, its place below the input). What folders hold that is no image goes to `ignored`."""
    for given in inputs:
        if given.is_file():
            yield given, Path(given.name)
        elif given.is_dir():
            yield from _inside(given, output, ignored)
        elif str(given).startswith(LISTS):
            yield from _listed(given, output, ignored)
        else:
            raise UserError(f"{given}: there is no such file or folder; correct the path")


def _inside(folder: Path, output: Path, ignored: list[Path]) -> Iterator[tuple[Path, Path]]:
    earlier = output if folder.resolve() in output.resolve().parents else None  # what an earlier run wrote there
    images = _outside(earlier, list_images(folder, (*IMAGES, *VIDEOS, TAR)))
    others = {path for path in folder.rglob("*") if path.is_file()} - set(images)
    ignored += _outside(earlier, sorted(path for path in others if not _hidden(path.relative_to(folder))))
    for path in images:
        yield path, path.relative_to(folder)


def _listed(given: Path, output: Path, ignored: list[Path]) -> Iterator[tuple[Path, Path]]:
    """The lines of a list, below the folder that they have in common. A line that leads nowhere fails when it is
    read, so that it costs the others nothing."""
    name = next(str(given).removeprefix(mark) for mark in LISTS if str(given).startswith(mark))
    try:
        lines = [line.strip() for line in os.fsdecode(Path(name).read_bytes()).splitlines()]
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}; give a file with one path a line") from None
    paths = [Path(os.path.abspath(line)) for line in lines if line and not line.startswith("#")]
    if not paths:
        raise UserError(f"{name} names no files; give a file with one path a line")
    common = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))
    for path in paths:
        if path.is_dir():
            yield from ((file, file.relative_to(common)) for file, _ in _inside(path, output, ignored))
        else:
            yield path, path.relative_to(common)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _hidden(place: Path) -> bool:
    return any(part.startswith(".") for part in place.parts)


def _outside(folder: Path | None, paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if folder is None or folder.resolve() not in path.resolve().parents]


# ---- where it goes ---------------------------------------------------------------------------------------------------


def _targets(found: Sequence[_Found], output: Path, format: str | None, suffix: str) -> list[ConversionJob]:
    """Names by stem; where several inputs share one (a.png, a.jpg), each carries its old ending: a_png, a_jpg."""
    endings = [_ending(one.place, format) for one in found]
    plain = [_named(one.place, suffix + ending) for one, ending in zip(found, endings, strict=True)]
    shared = Counter(_key(name) for name in plain)
    taken: set[str] = set()
    jobs = []
    for one, ending, name in zip(found, endings, plain, strict=True):
        number = 1
        while _key(name) in taken or (number == 1 and shared[_key(name)] > 1):
            again = f"_{number}" if number > 1 else ""
            name = _named(one.place, f"_{one.place.suffix[1:]}{again}{suffix}{ending}")
            number += 1
        taken.add(_key(name))
        jobs.append(ConversionJob(one.source, output / name, one.size, one.offset, one.member))
    return jobs


def _ending(place: Path, format: str | None) -> str:
    if place.suffix.lower() in VIDEOS:
        return place.suffix if place.suffix.lower() in VIDEOS_OUT else ".mkv"  # which holds any sound
    ending = f".{format}" if format else place.suffix
    return ending if ending.lower() in WRITE_SUFFIXES else ".png"


def _named(place: Path, rest: str) -> Path:
    return place.with_name(place.stem + rest)


def _key(name: Path) -> str:
    """Equal where a disk that ignores case would see one file."""
    return name.as_posix().casefold()
