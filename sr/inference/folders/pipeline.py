"""Read, convert and write at the same time: readers run ahead by a bounded number of pixels, writers behind.

The conversion itself runs in the caller's thread and in order. An error concerns one job; a full disk ends the run,
because every job that follows would fail as well.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from sr.core.atomic import DISK_FULL
from sr.core.daemon_pool import DaemonPool
from sr.core.errors import UserError
from sr.images import MAX_PIXELS, ImageData, ImageError, read_image, size_of, write_image
from sr.images.write import dropped
from sr.inference.folders.manifest import Manifest, Stamp, stamp
from sr.inference.folders.memory_budget import MemoryBudget
from sr.inference.folders.plan import ConversionJob
from sr.inference.folders.tars import read_member
from sr.inference.folders.work_queue import WorkQueue

READERS, WRITERS = 2, 16  # threads per process; a GPU upscales images faster than a few cores compress them
READ_PIXELS, WRITE_PIXELS = 32_000_000, 64_000_000  # decoded images that wait, 12 bytes per pixel
BATCH_PIXELS = 1_000_000  # of small images that are converted in one call
READ_SECONDS = 2.0  # how long an interrupted run waits for a read, which may never return

Finish = Callable[[], Sequence[ImageData]]


@dataclass
class Outcome:
    """The jobs of one process. kept: already done, by their content. damaged: written or kept, but from an input of
    which parts are missing, with what is missing. notes: what reading and writing left out."""

    written: list[ConversionJob] = field(default_factory=list)
    kept: list[ConversionJob] = field(default_factory=list)
    failed: list[tuple[ConversionJob, str]] = field(default_factory=list)
    damaged: list[tuple[ConversionJob, str]] = field(default_factory=list)
    notes: list[tuple[ConversionJob, str]] = field(default_factory=list)


class Reading(NamedTuple):
    """How inputs are read and outputs are written.

    Args:
        quality: of JPEG and WebP, where 100 is lossless.
        max_pixels: of an image, checked before it is decoded.
        first_frame: take the first frame of animations and the first page of files with several, which are refused
            otherwise.
        again: convert inputs whose output is up to date as well.
        strict: refuse damaged inputs instead of converting what is left of them.
        bands: channels that the model takes, see `sr.images.read_image`.
    """

    quality: int = 95
    max_pixels: int = MAX_PIXELS
    first_frame: bool = False
    again: bool = False
    strict: bool = False
    bands: int = 0


class Converter(Protocol):
    """What is done with jobs, in the caller's thread.

    several: starts one or several, may be called where `takes_several`. ahead: of how many calls the results may be
    collected after the next call. video: writes the output; returns its size in bytes, the SHA-256 of
    the source, and what of the source is damaged ("" for nothing).
    """

    @property
    def ahead(self) -> int: ...

    @property
    def takes_several(self) -> bool: ...

    def one(self, job: ConversionJob, image: ImageData) -> ImageData: ...

    def several(self, jobs: Sequence[ConversionJob], images: Sequence[ImageData]) -> Finish: ...

    def video(self, job: ConversionJob) -> tuple[int, str, str]: ...


class _Loaded(NamedTuple):
    """image: None where the output is up to date, and for a video, which is read later."""

    job: ConversionJob
    stamped: Stamp
    sha256: str
    image: ImageData | None
    pixels: int = 0
    damage: str = ""
    notes: tuple[str, ...] = ()


class Pipeline:
    """Runs the jobs that `queue` gives to this process and adds a record of each output to `manifest`."""

    def __init__(
        self, queue: WorkQueue[ConversionJob], manifest: Manifest, reading: Reading, converter: Converter
    ) -> None:
        self._queue, self._manifest, self._reading, self._converter = queue, manifest, reading, converter
        self._to_read, self._to_write = MemoryBudget(READ_PIXELS), MemoryBudget(WRITE_PIXELS)
        self._turns, self._writes = 0, 0
        self._readers, self._writers = DaemonPool(READERS, "read"), DaemonPool(WRITERS, "write")
        self._ahead: deque[tuple[ConversionJob, Future[_Loaded]]] = deque()
        self._behind: deque[tuple[_Loaded, Future[None]]] = deque()
        self._begun: deque[tuple[list[_Loaded], Finish]] = deque()
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Run all jobs of this process.

        Raises:
            OSError: the disk is full.
            KeyboardInterrupt: after the files that were being written are complete.
        """
        try:
            while self._fill():
                self._one_or_more()
                self._settle(wait=False)
            self._finish(ahead=0)
            self._settle(wait=True)
        finally:
            self._to_read.close()
            self._readers.shutdown(seconds=READ_SECONDS)
            self._writers.shutdown()
        return self.outcome

    def _fill(self) -> bool:
        """Give the readers work. Returns whether anything is left to do."""
        while len(self._ahead) < self._queue.ahead and (job := self._queue.take()) is not None:
            self._ahead.append((job, self._readers.submit(self._load, job, self._turns)))
            self._turns += 1
        return bool(self._ahead)

    # ---- in the threads ----------------------------------------------------------------------------------------------

    def _load(self, job: ConversionJob, turn: int) -> _Loaded:
        pixels = 0
        try:
            stamped = stamp(job)
            if job.is_video:
                return _Loaded(job, stamped, "", None)
            data = read_member(job.source, job.offset, job.size) if job.member else job.source.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            record = None if self._reading.again else self._manifest.candidate(job)
            if record is not None and record.sha256 == sha256:
                self._manifest.add(job, stamped, sha256, record.made, record.damage)
                return _Loaded(job, stamped, sha256, None, damage=record.damage)
            name = str(job.label)
            height, width = _measured(data, name)
            pixels = height * width if height * width <= self._reading.max_pixels else 0
        finally:
            self._to_read.take(pixels, turn=turn)  # in any case, or the turns behind would wait for ever
        try:
            image = read_image(
                data,
                name=name,
                max_pixels=self._reading.max_pixels,
                first_frame=self._reading.first_frame,
                partial=not self._reading.strict,
                bands=self._reading.bands,
            )
        except BaseException:
            self._to_read.give(pixels)
            raise
        damage = f"{image.missing_rows:.1%} of its rows are missing or incomplete" if image.missing_rows else ""
        return _Loaded(job, stamped, sha256, image, pixels, damage, image.notes)

    def _write(self, loaded: _Loaded, made: ImageData) -> None:
        try:
            size = write_image(loaded.job.target, made, quality=self._reading.quality)
            self._manifest.add(loaded.job, loaded.stamped, loaded.sha256, size, loaded.damage)
        except OSError as error:
            if error.filename is None:  # of a write, such as one beyond the limit for the size of files
                error.filename = str(loaded.job.target)
            raise
        finally:
            self._to_write.give(made.pixels)

    # ---- in order ----------------------------------------------------------------------------------------------------

    def _one_or_more(self) -> None:
        loaded = self._next()
        if loaded is None:
            return
        if loaded.image is None:
            self._without_image(loaded)
            return
        group = [loaded]
        while self._converter.takes_several and self._ahead and self._ahead[0][1].done():
            if sum(one.pixels for one in group) + self._next_pixels() > BATCH_PIXELS:
                break
            following = self._next()
            if following is not None and following.image is None:
                self._without_image(following)
            elif following is not None:
                group.append(following)
        try:
            self._convert(group)
        finally:
            for one in group:
                self._to_read.give(one.pixels)

    def _next_pixels(self) -> int:
        """Pixels of the next image; 0 if it could not be read."""
        future = self._ahead[0][1]
        return 0 if future.exception() else future.result().pixels

    def _next(self) -> _Loaded | None:
        """The next loaded job; None, and a failure, if it could not be read."""
        job, future = self._ahead.popleft()
        try:
            return future.result()
        except Exception as error:
            self._fail(job, error)
            return None

    def _without_image(self, loaded: _Loaded) -> None:
        if not loaded.job.is_video:
            self._succeed(self.outcome.kept, loaded.job, loaded.damage)
            return
        try:
            size, sha256, damage = self._converter.video(loaded.job)
            self._manifest.add(loaded.job, loaded.stamped, sha256, size, damage)
        except Exception as error:
            self._fail(loaded.job, error)
        else:
            self._succeed(self.outcome.written, loaded.job, damage)

    def _convert(self, group: list[_Loaded]) -> None:
        if not self._converter.takes_several:
            self._one_by_one(group)
            return
        images = [one.image for one in group if one.image]
        try:
            self._begun.append((group, self._converter.several([one.job for one in group], images)))
        except Exception as error:
            self._retry(group, error)
        self._finish(ahead=self._converter.ahead)

    def _finish(self, *, ahead: int) -> None:
        """Collect results, except those of the last `ahead` calls."""
        while len(self._begun) > ahead:
            group, finish = self._begun.popleft()
            try:
                made = finish()
            except Exception as error:
                self._retry(group, error)
            else:
                for one, image in zip(group, made, strict=True):
                    self._pass_on(one, image)

    def _retry(self, group: list[_Loaded], error: Exception) -> None:
        """Convert the images of a group one by one: each shows its own error."""
        logging.getLogger(__name__).debug("%s and others", group[0].job.label, exc_info=error)
        if len(group) > 1:
            self._one_by_one(group)
        else:
            self._fail(group[0].job, error)

    def _one_by_one(self, group: list[_Loaded]) -> None:
        for one in group:
            assert one.image is not None
            try:
                image = self._converter.one(one.job, one.image)
            except Exception as error:
                self._fail(one.job, error)
            else:
                self._pass_on(one, image)

    def _pass_on(self, loaded: _Loaded, made: ImageData) -> None:
        self._to_write.take(made.pixels, turn=self._writes)
        self._writes += 1
        without = loaded._replace(image=None, notes=loaded.notes + dropped(loaded.job.target, made))
        self._behind.append((without, self._writers.submit(self._write, without, made)))

    def _settle(self, *, wait: bool) -> None:
        """Collect the results of writing."""
        while self._behind and (wait or self._behind[0][1].done()):
            loaded, future = self._behind.popleft()
            try:
                future.result()
            except Exception as error:
                self._fail(loaded.job, error)
            else:
                self._succeed(self.outcome.written, loaded.job, loaded.damage)
                self.outcome.notes += [(loaded.job, note) for note in loaded.notes]

    def _succeed(self, jobs: list[ConversionJob], job: ConversionJob, damage: str) -> None:
        jobs.append(job)
        if damage:
            self.outcome.damaged.append((job, damage))
        self._queue.tick()

    def _fail(self, job: ConversionJob, error: Exception) -> None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise OSError(error.errno, error.strerror, str(job.target)) from error
        logging.getLogger(__name__).debug("%s", job.label, exc_info=error)
        self.outcome.failed.append((job, _reason(job, error)))
        self._queue.tick()


def _measured(data: bytes, name: str) -> tuple[int, int]:
    """Size by the header; (0, 0) where it shows none. Reading will report why."""
    try:
        return size_of(data, name=name)
    except ImageError:
        return 0, 0


def _reason(job: ConversionJob, error: Exception) -> str:
    if isinstance(error, ImageError):
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        return f"cannot write {job.target}: {error.strerror}" if _of_output(job, error) else error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, UserError) else text[:300]


def _of_output(job: ConversionJob, error: OSError) -> bool:
    """Whether an error names the output, one of its folders, or a temporary file next to it."""
    named = error.filename2 or error.filename
    if not isinstance(named, str) or Path(named) == job.source:
        return False
    return Path(named) in job.target.parents or job.target.parent in Path(named).parents
