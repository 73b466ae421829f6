"""Which input goes to which output: files, folder trees, lists and tars in; a tree of names that never collide out."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from sr.core.errors import UserError
from sr.images import READ_SUFFIXES, WRITE_SUFFIXES
from sr.images.formats import WRITE_FORMATS
from sr.images.listing import kind_of, walk
from sr.inference.folders.lists import read_list
from sr.inference.folders.tars import members

IMAGES = READ_SUFFIXES
VIDEOS = (
    *(".mp4", ".mkv", ".mov", ".m4v", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv"),
    *(".3gp", ".3g2", ".flv", ".f4v", ".mts", ".m2ts", ".m2v", ".ogv", ".vob", ".mxf", ".asf"),
)
VIDEOS_OUT = (".mp4", ".mkv", ".mov", ".m4v")
TAR = ".tar"
LISTS = "list:", "@"

# Rough number of pixels per byte of a file: enough to start with what takes longest.
_DENSITY = {".jpg": 4.0, ".jpeg": 4.0, ".jfif": 4.0, ".webp": 6.0, ".avif": 9.0, ".jxl": 9.0, ".png": 0.6}
_DENSITY |= dict.fromkeys(VIDEOS, 200.0)


class ConversionJob(NamedTuple):
    """source: a file, or the tar that holds the image: `member`, `size` bytes from `offset` on."""

    source: Path
    target: Path
    size: int = 0
    offset: int = 0
    member: str = ""

    @property
    def label(self) -> Path:
        """The source as messages name it."""
        return self.source / self.member if self.member else self.source

    @property
    def stem(self) -> str:
        return self.label.stem

    @property
    def is_video(self) -> bool:
        return self.label.suffix.lower() in VIDEOS

    @property
    def kind(self) -> str:
        """Which settings change the output: those of videos, the quality of a lossy format, or neither."""
        lossy = WRITE_FORMATS.get(self.target.suffix.lower()) in ("jpg", "webp")
        return "video" if self.is_video else "lossy" if lossy else "exact"

    @property
    def cost(self) -> float:
        """Estimated number of pixels, from the size of the file."""
        return self.size * _DENSITY.get(self.label.suffix.lower(), 0.33)


class _Found(NamedTuple):
    """place: path below the input that it was found in."""

    source: Path
    place: Path
    size: int
    offset: int = 0
    member: str = ""

    @property
    def label(self) -> Path:
        return self.source / self.member if self.member else self.source


class ConversionPlan(NamedTuple):
    """jobs: largest first. skipped: files that are no images, videos or tars, with reasons. refused: inputs that no job
    could be made of, with reasons. folder: where the manifest is kept; None for a single output file."""

    jobs: list[ConversionJob]
    skipped: list[tuple[Path, str]]
    refused: list[tuple[Path, str]]
    folder: Path | None


def plan(
    inputs: Sequence[Path],
    output: Path,
    *,
    format: str | None,
    suffix: str,
    as_folder: bool = False,
    made: Mapping[Path, Path] | None = None,
) -> ConversionPlan:
    """Pair every input with an output. No two outputs are equal, and none is an input.

    Args:
        as_folder: `output` is a folder, even if its name has a suffix.
        made: outputs of earlier runs in `output`, each with its source (absolute paths). They are no inputs.

    Raises:
        UserError: nothing to do, or an output would overwrite an input.
    """
    if "/" in suffix or "\0" in suffix:
        raise UserError(f"--suffix '{suffix}' is no part of a file name; give one without '/', such as _x4")
    search = _Search(output)
    found = _without_outputs(search.run(inputs), made or {})
    if not found and not search.refused:
        first = f" (skipped: {': '.join(map(str, search.skipped[0]))})" if search.skipped else ""
        raise UserError(f"no images in {', '.join(map(str, inputs))}{first}; give images or a folder with some")
    folder: Path | None = output
    if found and not as_folder and _is_single(inputs) and output.suffix and not output.is_dir():
        target = _single(found[0], output, format, suffix)
        jobs, folder = [ConversionJob(found[0].source, target, found[0].size)], None
    elif output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; give a folder to write to")
    else:
        jobs, too_long = _targets(found, output, format, suffix)
        search.refused += too_long
    _check_overwriting(jobs)
    jobs.sort(key=lambda job: -job.cost)
    return ConversionPlan(jobs, search.skipped, search.refused, folder)


def _is_single(inputs: Sequence[Path]) -> bool:
    return len(inputs) == 1 and inputs[0].is_file() and inputs[0].suffix.lower() != TAR


def _single(found: _Found, output: Path, format: str | None, suffix: str) -> Path:
    if format or suffix:
        raise UserError(f"{output} names the file itself; leave out --format and --suffix, or give a folder")
    allowed = VIDEOS_OUT if found.source.suffix.lower() in VIDEOS else WRITE_SUFFIXES
    if output.suffix.lower() not in allowed:
        fix = f"end the name in one of {', '.join(allowed)}, or in / for a folder"
        raise UserError(f"{output}: cannot write '{output.suffix}'; {fix}")
    return output


def _without_outputs(found: Sequence[_Found], made: Mapping[Path, Path]) -> list[_Found]:
    """The inputs without those that an earlier run wrote, when their source is an input of this run as well."""
    if not made:
        return list(found)
    labels = {_absolute(one.label) for one in found}
    return [one for one in found if made.get(_absolute(one.label)) not in labels]


def _check_overwriting(jobs: Sequence[ConversionJob]) -> None:
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.target.resolve() in sources:
            raise UserError(f"{job.target} would overwrite an input; give another output folder, or --suffix _x4")


# ---- search ----------------------------------------------------------------------------------------------------------


class _Search:
    """Finds the inputs. skipped, refused: see ConversionPlan."""

    def __init__(self, output: Path) -> None:
        self._output = output.resolve()
        self.skipped: list[tuple[Path, str]] = []
        self.refused: list[tuple[Path, str]] = []

    def run(self, inputs: Sequence[Path]) -> list[_Found]:
        """Every image, video and member of a tar, without repeats."""
        found: dict[tuple[Path, str], _Found] = {}
        for path, place in self._files(inputs):
            if path.suffix.lower() != TAR:
                size = path.stat().st_size if path.exists() else 0
                found.setdefault((_absolute(path), ""), _Found(path, place, size))
                continue
            try:
                inside, bad = members(path, IMAGES)
            except UserError as error:
                self.refused.append((path, str(error)))
                continue
            self.refused += [(path / name, reason) for name, reason in bad]
            for one in inside:
                below = place.with_suffix("") / one.name
                found.setdefault((_absolute(path), one.name), _Found(path, below, one.size, one.offset, one.name))
        return list(found.values())

    def _files(self, inputs: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
        """(file, its place below the input)."""
        for given in inputs:
            if os.path.lexists(given):
                yield from self._named(given, Path(given.name))
            elif str(given).startswith(LISTS):
                yield from self._listed(given)
            else:
                raise UserError(f"{given}: there is no such file or folder; correct the path")

    def _named(self, given: Path, place: Path) -> Iterator[tuple[Path, Path]]:
        """A file, or what a folder holds. The place of a file in a folder starts below that folder."""
        try:
            mode = given.stat().st_mode
        except OSError as error:
            self.refused.append((given, f"{error.strerror}; correct the link or the path"))
            return
        if given.is_dir():
            yield from self._inside(given)
        elif given.is_file():
            yield given, place
        else:
            self.skipped.append((given, f"is a {kind_of(mode)}"))

    def _inside(self, folder: Path) -> Iterator[tuple[Path, Path]]:
        root = folder.resolve()
        apart = self._output != root and self._output not in root.parents  # the output is not a place to search
        for path, reason in walk(folder, (*IMAGES, *VIDEOS, TAR)):
            if apart and _below(path.parent, self._output):
                continue
            if not reason:
                yield path, path.relative_to(folder)
            elif reason.startswith(("broken link", "that cannot be read")):
                self.refused.append((path, f"{reason.removesuffix('s')}; correct it or take it out"))
            elif reason != "hidden":
                self.skipped.append((path, _SKIPPED.get(reason, reason.removesuffix("s"))))

    def _listed(self, given: Path) -> Iterator[tuple[Path, Path]]:
        """The lines of a list, below the folder that they have in common. A line that names nothing fails when it is
        read, so that the others are made."""
        name = next(str(given).removeprefix(mark) for mark in LISTS if str(given).startswith(mark))
        paths = read_list(name)
        common = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))
        for path in paths:
            if path.is_dir():
                yield from ((file, file.relative_to(common)) for file, _ in self._inside(path))
            elif os.path.lexists(path):
                yield from self._named(path, path.relative_to(common))
            else:
                yield path, path.relative_to(common)


_SKIPPED = {"link loops": "a link to a folder that holds it"}


def _absolute(path: Path) -> Path:
    """Without `..` and links to the same folder written in two ways, but links stay links."""
    return Path(os.path.abspath(path))


def _below(folder: Path, output: Path) -> bool:
    resolved = _resolved(folder)
    return resolved == output or output in resolved.parents


@lru_cache(maxsize=1024)
def _resolved(folder: Path) -> Path:
    return folder.resolve()


# ---- names of the outputs --------------------------------------------------------------------------------------------


def _targets(
    found: Sequence[_Found], output: Path, format: str | None, suffix: str
) -> tuple[list[ConversionJob], list[tuple[Path, str]]]:
    """Names by stem; where several inputs share one (a.png, a.jpg), each carries its old ending: a_png, a_jpg.

    Returns the jobs, and the inputs whose output names are too long for the file system, with reasons.
    """
    endings = [_ending(one.place, format) for one in found]
    plain = [_named(one.place, suffix + ending) for one, ending in zip(found, endings, strict=True)]
    shared = Counter(_key(name) for name in plain)
    most = _longest_name(output)
    taken: set[str] = set()
    jobs, refused = [], []
    for one, ending, name in zip(found, endings, plain, strict=True):
        number = 1
        while _key(name) in taken or (number == 1 and shared[_key(name)] > 1):
            again = f"_{number}" if number > 1 else ""
            name = _named(one.place, f"_{one.place.suffix[1:]}{again}{suffix}{ending}")
            number += 1
        taken.add(_key(name))
        if (length := len(os.fsencode(name.name))) > most:
            refused.append((one.label, f"its output name takes {length} bytes of at most {most}; shorten the name"))
        else:
            jobs.append(ConversionJob(one.source, output / name, one.size, one.offset, one.member))
    return jobs, refused


def _longest_name(output: Path) -> int:
    """Bytes that the file system of the output takes in a name."""
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    try:
        return os.pathconf(there, "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):
        return 255


def _ending(place: Path, format: str | None) -> str:
    if place.suffix.lower() in VIDEOS:
        return place.suffix if place.suffix.lower() in VIDEOS_OUT else ".mkv"  # which holds any sound
    ending = f".{format}" if format else place.suffix
    return ending if ending.lower() in WRITE_SUFFIXES else ".png"


def _named(place: Path, rest: str) -> Path:
    return place.with_name(place.stem + rest)


def _key(name: Path) -> str:
    """Equal where a file system that ignores case would see one file."""
    return name.as_posix().casefold()
