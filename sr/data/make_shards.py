"""Cut images into sub-images and pack them into tar shards. The plan comes first, so an interrupted run can resume."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import webdataset

from sr.core.atomic import replacing
from sr.core.digest import sha256_of
from sr.core.errors import UserError
from sr.core.lock import Lock
from sr.core.progress import progress
from sr.data import codecs
from sr.data import index as shard_index
from sr.data.paired import half_of, halves
from sr.data.pairs import pair_up
from sr.data.paths import find_images
from sr.data.quality import Limits, check_package, near_duplicates, perceptual_hash
from sr.data.scan import index_of, scan
from sr.data.source import fit_gt
from sr.images import ImageError, read_opaque, read_pixels, size_of
from sr.images.listing import Skipped, printable

SMALLEST = 32  # pixels; smaller images are skipped
PLAN = "plan.json"
FORMAT_CHANNELS = {"jpg": (3,), "webp": (3, 4), "png": (1, 2, 3, 4)}  # npy holds any number
NO_LIMITS = Limits()
Run = Callable[..., Iterator[Any]]


@dataclass(frozen=True)
class Cutting:
    """How sub-images are cut and stored.

    size, step: gt pixels; size None for whole images. scale: 1 without lq. side_by_side: the left half of an image is
    its lq, the right half its gt. channels: of lq and gt, see `sr.images.read_pixels`.
    """

    size: int | None
    step: int
    format: Literal["png", "jpg", "webp", "npy"]
    quality: int
    scale: int
    side_by_side: bool = False
    channels: tuple[int, int] = (3, 3)

    def grid(self, height: int, width: int) -> tuple[list[int], list[int]]:
        """The first rows and the first columns of the sub-images of an image."""
        rows, columns = (windows(side, self.size or side, self.step) for side in (height, width))
        return rows, columns


class Image(NamedTuple):
    """An input image: its files, its index among all inputs, and its number of sub-images (`pieces`)."""

    number: int
    gt: Path
    lq: Path | None
    pieces: int


class Examined(NamedTuple):
    """What is known of an input image before it is cut. refusal: why it is dropped, and the value that was measured."""

    pieces: int
    area: int
    refusal: tuple[str, str] = ("", "")
    hash: int = 0


class ShardJob(NamedTuple):
    """One shard. parts: images, each with the range of its sub-images in this shard."""

    tar: Path
    cutting: Cutting
    parts: list[tuple[Image, int, int]]


class ShardReport(NamedTuple):
    """The result of `make_shards`. skipped: unusable images with reasons. others: files that are not images, and images
    that `limits` drop. opaque: images whose transparency was dropped."""

    samples: int
    shards: int
    skipped: list[tuple[str, str]]
    others: Skipped
    opaque: list[str]

    @property
    def notes(self) -> list[str]:
        """Sentences about what the shards lack without an error."""
        notes = [str(self.others)] if self.others.total else []
        if self.opaque:
            notes.append(f"{len(self.opaque)} images stored without their transparency (such as {self.opaque[0]})")
        return notes


def make_shards(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    size: int | None = 480,
    step: int = 240,
    format: Literal["png", "jpg", "webp", "npy"] = "png",
    quality: int = 95,
    per_shard: int = 1000,
    lq: str | Path | None = None,
    scale: int | None = None,
    side_by_side: bool = False,
    workers: int = 1,
    strict: bool = False,
    progress: bool = True,
    channels: tuple[int, int] = (3, 3),
    limits: Limits = NO_LIMITS,
) -> ShardReport:
    """Cut images into overlapping `size` x `size` sub-images every `step` pixels and pack them into tars under `out`.

    The last row and column of sub-images end at the border. An image smaller than `size` is kept whole, and one smaller
    than 32 pixels is skipped. The same call resumes after an interruption; the tars do not depend on `workers`. If
    another process is filling `out`, this one waits for it.

    Args:
        inputs: folders, globs or files, see `sr.data.paths.find_images`.
        size: None keeps whole images.
        lq: folders, globs or files of the partners, `scale` times smaller, stored in the same format (as png where the
            format is lossy). See `sr.data.pairs` for their names.
        side_by_side: the left half of each image is stored as lq, the right half as gt.
        workers: processes. With more than 1, a calling script needs `if __name__ == "__main__"`.
        strict: raise UserError for unreadable images, instead of skipping and reporting them.
        channels: to store of lq and gt, see `sr.images.read_pixels`. With 3, transparency is dropped and reported.
        limits: images to drop. They are reported, with an example for each reason.
    """
    cutting = Cutting(size, step, format, quality, scale if lq and scale else 1, side_by_side, channels)
    _check(cutting, lq, scale, per_shard)
    found = find_images(inputs)
    paths, others = found.paths, found.skipped
    partners: Sequence[Path | None] = [None] * len(paths)
    if lq:
        partners, alone = pair_up(found, find_images(lq))
        for path in alone:
            others.add("without partner", path)
    if limits.dedupe is not None:
        check_package()
    out = Path(out)
    with _processes(workers) as run:
        images, skipped = _plan(paths, partners, cutting, run, progress, limits, others)
        if skipped and (strict or not images):
            raise UserError(_listing(skipped))
        if not images:
            raise UserError(f"all images are dropped ({others}); relax the limits")
        used, fix = f"{out} is being filled with shards", "wait until it is done"
        with Lock(out / ".lock", used=used, fix=fix, wait=True):
            _claim(out, cutting, images, per_shard)
            jobs = _jobs(out, cutting, images, per_shard)
            todo = [job for job in jobs if not job.tar.exists() or shard_index.load(job.tar) is None]
            _consume(run(_write_shard, todo, chunksize=1), "shards", len(jobs), progress, len(jobs) - len(todo))
            return _finish(out, jobs, skipped, others, strict)


def windows(length: int, size: int, step: int) -> list[int]:
    """The offsets of the sub-images along one side; the last one ends at the border."""
    starts = list(range(0, length - size + 1, step)) or [0]
    return [*starts, length - size] if starts[-1] + size < length else starts


def _check(cutting: Cutting, lq: object, scale: int | None, per_shard: int) -> None:
    if cutting.channels[1] not in FORMAT_CHANNELS.get(cutting.format, cutting.channels):
        better = "png" if cutting.channels[1] <= 4 else "npy"
        raise UserError(f"{cutting.format} cannot hold {cutting.channels[1]} channels; set the format to {better}")
    if (cutting.size is not None and cutting.size < SMALLEST) or cutting.step < 1 or per_shard < 1:
        raise UserError(f"sub-images need size >= {SMALLEST}, step >= 1 and per_shard >= 1; correct these values")
    if lq and not scale:
        raise UserError("pairs need the scale between lq and gt; add --scale")
    if lq and cutting.side_by_side:
        raise UserError("--side-by-side images contain their own lq; remove either --lq or --side-by-side")
    if (cutting.size or 0) % cutting.scale or cutting.step % cutting.scale:
        raise UserError(f"size {cutting.size} and step {cutting.step} must be multiples of scale {scale}; round them")


@contextmanager
def _processes(workers: int) -> Iterator[Run]:
    """A `map` over `workers` processes."""
    if workers <= 1:
        yield lambda function, jobs, chunksize: map(function, jobs)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        yield pool.map
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, most likely because memory ran out; resume with fewer --workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _consume(results: Iterable[Any], what: str, total: int, show: bool, initial: int = 0) -> list[Any]:
    return list(progress(results, desc=what, total=total, initial=initial, show=show, unit=""))


def _plan(
    paths: Sequence[Path],
    partners: Sequence[Path | None],
    cutting: Cutting,
    run: Run,
    progress: bool,
    limits: Limits,
    others: Skipped,
) -> tuple[list[Image], list[tuple[str, str]]]:
    """Return every usable image with its number of pieces, and the unreadable ones. Adds those dropped to `others`.

    Reads headers only, unless the limits need pixels.
    """
    what = "examining" if limits.need_pixels else "reading sizes"
    examined = run(partial(_examine, cutting=cutting, limits=limits), paths, chunksize=8 if limits.need_pixels else 64)
    images, skipped, found = [], [], []
    for number, (path, partner, result) in enumerate(
        zip(paths, partners, _consume(examined, what, len(paths), progress), strict=True)
    ):
        if isinstance(result, ImageError):
            skipped.append((result.name, result.reason))
        elif result.refusal[0]:
            others.add(result.refusal[0], printable(path) + result.refusal[1])
        else:
            images.append(Image(number, path, partner, result.pieces))
            found.append(result)
    if limits.dedupe is None:
        return images, skipped
    twins = near_duplicates([row.hash for row in found], [row.area for row in found], limits.dedupe)
    for row, twin in sorted(twins.items()):
        others.add("near-duplicates", f"{printable(images[row].gt)} of {printable(images[twin].gt)}")
    return [image for row, image in enumerate(images) if row not in twins], skipped


def _examine(path: Path, cutting: Cutting, limits: Limits) -> Examined | ImageError:
    name = printable(path)
    try:
        height, width = (side // cutting.scale * cutting.scale for side in size_of(path, name=name))
        if cutting.side_by_side:
            width = half_of(height, width, name)
        if min(height, width) < SMALLEST:
            raise ImageError(name, f"{width}x{height} is smaller than {SMALLEST} pixels")
        rows, columns = cutting.grid(height, width)
        examined = Examined(len(rows) * len(columns), height * width)
        if reason := limits.by_size(height, width):
            return examined._replace(refusal=(reason, f": {width}x{height}"))
        if not limits.need_pixels:
            return examined
        gray = read_pixels(path, channels=1, name=name)[..., 0]
    except ImageError as error:
        return error
    reason, value = limits.by_pixels(gray)
    if reason:
        return examined._replace(refusal=(reason, f": {value:.3g}"))
    return examined if limits.dedupe is None else examined._replace(hash=perceptual_hash(gray))


def _claim(out: Path, cutting: Cutting, images: Sequence[Image], per_shard: int) -> None:
    """Write the plan to `out`. Raises UserError if the folder holds other shards or another plan."""
    digest = hashlib.sha256(json.dumps([asdict(cutting), per_shard]).encode())
    for image in images:
        sizes = [path.stat().st_size for path in (image.gt, image.lq) if path]
        digest.update(repr((image.number, image.gt.name, sizes, image.pieces)).encode())
    plan = {"version": 1, **asdict(cutting), "per_shard": per_shard, "images": len(images), "hash": digest.hexdigest()}
    path = out / PLAN
    if path.exists():
        if path.read_text(encoding="utf-8") != json.dumps(plan, indent=1):
            raise UserError(f"{out} holds shards of other images or settings; choose another folder or empty this one")
    elif out.exists() and any(out.glob("*.tar")):
        raise UserError(f"{out} holds shards that another program made; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    for left_over in out.glob(".shard-*.tmp"):
        left_over.unlink()
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plan, indent=1), encoding="utf-8")


def _jobs(out: Path, cutting: Cutting, images: Sequence[Image], per_shard: int) -> list[ShardJob]:
    """Shard k holds pieces k * per_shard to (k + 1) * per_shard - 1; the pieces of an image may span shards."""
    jobs: list[ShardJob] = []
    ends = accumulate(image.pieces for image in images)
    for image, end in zip(images, ends, strict=True):
        start = end - image.pieces
        for shard in range(start // per_shard, (end - 1) // per_shard + 1):
            if shard == len(jobs):
                jobs.append(ShardJob(out / f"shard-{shard:06d}.tar", cutting, []))
            first, last = max(start, shard * per_shard), min(end, (shard + 1) * per_shard)
            jobs[shard].parts.append((image, first - start, last - start))
    return jobs


def _write_shard(job: ShardJob) -> None:
    skipped: list[tuple[str, str]] = []
    opaque: list[str] = []
    with replacing(job.tar, sync=True) as temporary:
        # With a fixed time and owner, equal images give equal bytes.
        with open(temporary, "wb") as file, webdataset.TarWriter(file, encoder=False, mtime=0) as tar:
            for image, first, stop in job.parts:
                try:
                    for sample in _samples(image, job.cutting, first, stop, opaque):
                        tar.write(sample)
                except ImageError as error:
                    skipped.append((error.name, error.reason))
        index = replace(scan(temporary), skipped=skipped, sha256=sha256_of(temporary), opaque=opaque)
    shard_index.save(job.tar, index)


def _samples(image: Image, cutting: Cutting, first: int, stop: int, opaque: list[str]) -> Iterator[dict[str, Any]]:
    """Yield sub-images `first` to `stop` - 1 of an image, row by row, as samples for webdataset's TarWriter.

    Names of files whose transparency is dropped are added to `opaque`.
    """
    gt, lq, scale = *_pixels(image, cutting, opaque), cutting.scale
    size = cutting.size or max(gt.shape)
    rows, columns = cutting.grid(*gt.shape[:2])
    for piece in range(first, stop):
        top, left = rows[piece // len(columns)], columns[piece % len(columns)]
        sample: dict[str, Any] = {"__key__": f"{image.number:06d}_{_clean(image.gt.stem)}_s{piece:03d}"}
        cut = codecs.encode(gt[top : top + size, left : left + size], cutting.format, quality=cutting.quality)
        if lq is None:
            sample[cutting.format] = cut
        else:
            top, left = top // scale, left // scale
            part = lq[top : top + size // scale, left : left + size // scale]
            kept = "npy" if cutting.format == "npy" else "png"
            sample |= {f"gt.{cutting.format}": cut, f"lq.{kept}": codecs.encode(part, kept)}
        yield sample


def _pixels(image: Image, cutting: Cutting, opaque: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    name, (of_lq, of_gt) = printable(image.gt), cutting.channels
    gt = _read(image.gt, of_gt, opaque)
    if cutting.side_by_side:
        return halves(gt, name)[::-1]
    if image.lq is None:
        return gt, None
    lq = _read(image.lq, of_lq, opaque)
    try:
        return fit_gt(gt, lq, cutting.scale), lq
    except ValueError as error:
        raise ImageError(name, str(error)) from None


def _read(path: Path, channels: int, opaque: list[str]) -> np.ndarray:
    name = printable(path)
    pixels, dropped = read_opaque(path, channels=channels, name=name, deep=True)
    if dropped:
        opaque.append(name)
    return pixels


def _clean(stem: str) -> str:
    """The part of a key that comes from a file name: no dots (they end the key), and short enough for USTAR."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", stem)[:48]


def _finish(
    out: Path, jobs: Sequence[ShardJob], skipped: list[tuple[str, str]], others: Skipped, strict: bool
) -> ShardReport:
    indexes = {job.tar.name: index_of(job.tar) for job in jobs}
    skipped = list(dict.fromkeys([*skipped, *(entry for index in indexes.values() for entry in index.skipped)]))
    if strict and skipped:
        raise UserError(_listing(skipped))
    shard_index.write_folder_index(out, {name: index.entry for name, index in indexes.items()})
    opaque = list(dict.fromkeys(name for index in indexes.values() for name in index.opaque))
    return ShardReport(sum(len(index.keys) for index in indexes.values()), len(jobs), skipped, others, opaque)


def _listing(skipped: list[tuple[str, str]]) -> str:
    shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:10])
    more = f"; and {len(skipped) - 10} more" if len(skipped) > 10 else ""
    return f"{len(skipped)} images cannot be used ({shown}{more}); replace or remove them"
