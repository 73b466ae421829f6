"""Reading, work and writing at the same time: readers run ahead by a bounded number of pixels, writers behind.

The work itself stays in the caller's thread and in order. A failure belongs to one job; but a disk that takes nothing
more ends all, since it would be the end of every job that follows.
"""

import errno
import hashlib
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from sr.core.errors import UserError
from sr.images import MAX_PIXELS, ImageData, ImageError, read_image, size_of, write_image
from sr.inference.folders.manifest import Manifest, Stamp, stamp
from sr.inference.folders.memory_budget import MemoryBudget
from sr.inference.folders.plan import ConversionJob
from sr.inference.folders.tars import read_member
from sr.inference.folders.work_queue import WorkQueue

READERS, WRITERS = 2, 16  # threads of a process; a GPU makes images faster than a few cores compress them
READ_PIXELS, WRITE_PIXELS = 32_000_000, 64_000_000  # decoded images that wait, 12 bytes a pixel
TOGETHER_PIXELS = 1_000_000  # of images that are worked on in one call
FULL = errno.ENOSPC, errno.EDQUOT, errno.EROFS


@dataclass
class Outcome:
    """Of the jobs of one process. kept: found to be done by their content."""

    written: list[ConversionJob] = field(default_factory=list)
    kept: list[ConversionJob] = field(default_factory=list)
    failed: list[tuple[ConversionJob, str]] = field(default_factory=list)


class How(NamedTuple):
    """quality: of JPEG and WebP, where 100 is lossless. max_pixels: of an image, checked before it is decoded.
    first_frame: of animations and files of several pages, which are refused otherwise. again: what is there too."""

    quality: int = 95
    max_pixels: int = MAX_PIXELS
    first_frame: bool = False
    again: bool = False


class AtWork(Protocol):
    """What is done with jobs, in the caller's thread. several: may be called where takes_several. video: writes the
    output; returns its size in bytes and the SHA-256 of the source."""

    @property
    def takes_several(self) -> bool: ...

    def one(self, job: ConversionJob, image: ImageData) -> ImageData: ...

    def several(self, jobs: Sequence[ConversionJob], images: Sequence[ImageData]) -> Sequence[ImageData]: ...

    def video(self, job: ConversionJob) -> tuple[int, str]: ...


class _Loaded(NamedTuple):
    """image: None where the output is one of this very content already, or for a video, which is read later."""

    job: ConversionJob
    stamped: Stamp
    sha256: str
    image: ImageData | None
    pixels: int = 0


class Pipeline:
    """crew: gives the jobs and hears what is done. records: of what was made."""

    def __init__(self, queue: WorkQueue[ConversionJob], records: Manifest, how: How, at_work: AtWork) -> None:
        self._queue, self._records, self._how, self._at_work = queue, records, how, at_work
        self._reading, self._writing = MemoryBudget(READ_PIXELS), MemoryBudget(WRITE_PIXELS)
        self._turns, self._writes = 0, 0
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="read")
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="write")
        self._ahead: deque[tuple[ConversionJob, Future[_Loaded]]] = deque()
        self._behind: deque[tuple[ConversionJob, Future[None]]] = deque()
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """All jobs that the crew has for this process. Raises OSError for a disk that is full; KeyboardInterrupt after
        what was being written is whole."""
        try:
            while self._fill():
                self._one_or_more()
                self._settle(wait=False)
            self._settle(wait=True)
        finally:
            self._reading.close()
            self._readers.shutdown(cancel_futures=True)
            self._writers.shutdown(cancel_futures=True)
        return self.outcome

    def _fill(self) -> bool:
        """Have the readers busy; whether anything is left to do."""
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
            record = None if self._how.again else self._records.candidate(job)
            if record is not None and record.sha256 == sha256:
                self._records.add(job, stamped, sha256, record.made)
                return _Loaded(job, stamped, sha256, None)
            name = str(job.label)
            height, width = _measured(data, name)
            pixels = height * width if height * width <= self._how.max_pixels else 0
        finally:
            self._reading.take(pixels, turn=turn)  # whatever happens, or the turns behind would wait for ever
        try:
            image = read_image(data, name=name, max_pixels=self._how.max_pixels, first_frame=self._how.first_frame)
        except BaseException:
            self._reading.give(pixels)
            raise
        return _Loaded(job, stamped, sha256, image, pixels)

    def _write(self, loaded: _Loaded, made: ImageData) -> None:
        try:
            size = write_image(loaded.job.target, made, quality=self._how.quality)
            self._records.add(loaded.job, loaded.stamped, loaded.sha256, size)
        finally:
            self._writing.give(made.pixels)

    # ---- in order ----------------------------------------------------------------------------------------------------

    def _one_or_more(self) -> None:
        loaded = self._next()
        if loaded is None:
            return
        if loaded.image is None:
            self._without_image(loaded)
            return
        group = [loaded]
        while self._at_work.takes_several and self._ahead and self._ahead[0][1].done():
            if sum(one.pixels for one in group) + self._waiting() > TOGETHER_PIXELS:
                break
            following = self._next()
            if following is not None and following.image is None:
                self._without_image(following)
            elif following is not None:
                group.append(following)
        try:
            self._through(group)
        finally:
            for one in group:
                self._reading.give(one.pixels)

    def _waiting(self) -> int:
        """Pixels of the image that is next; 0 where reading it failed."""
        future = self._ahead[0][1]
        return 0 if future.exception() else future.result().pixels

    def _next(self) -> _Loaded | None:
        """The next that could be read, or nothing where it could not."""
        job, future = self._ahead.popleft()
        try:
            return future.result()
        except Exception as error:
            self._fail(job, error)
            return None

    def _without_image(self, loaded: _Loaded) -> None:
        if not loaded.job.is_video:
            self.outcome.kept.append(loaded.job)
            self._queue.tick()
            return
        try:
            size, sha256 = self._at_work.video(loaded.job)
            self._records.add(loaded.job, loaded.stamped, sha256, size)
        except Exception as error:
            self._fail(loaded.job, error)
        else:
            self._succeed(loaded.job)

    def _through(self, group: Sequence[_Loaded]) -> None:
        if len(group) > 1:
            try:
                made = self._at_work.several([one.job for one in group], [one.image for one in group if one.image])
            except Exception:  # alone, each of them shows what is wrong with it
                logging.getLogger(__name__).debug("%s together", group[0].job.label, exc_info=True)
            else:
                for one, image in zip(group, made, strict=True):
                    self._pass_on(one, image)
                return
        for one in group:
            assert one.image is not None
            try:
                image = self._at_work.one(one.job, one.image)
            except Exception as error:
                self._fail(one.job, error)
            else:
                self._pass_on(one, image)

    def _pass_on(self, loaded: _Loaded, made: ImageData) -> None:
        self._writing.take(made.pixels, turn=self._writes)
        self._writes += 1
        self._behind.append((loaded.job, self._writers.submit(self._write, loaded._replace(image=None), made)))

    def _settle(self, *, wait: bool) -> None:
        """What became of what was written."""
        while self._behind and (wait or self._behind[0][1].done()):
            job, future = self._behind.popleft()
            try:
                future.result()
            except Exception as error:
                self._fail(job, error)
            else:
                self._succeed(job)

    def _succeed(self, job: ConversionJob) -> None:
        self.outcome.written.append(job)
        self._queue.tick()

    def _fail(self, job: ConversionJob, error: Exception) -> None:
        if isinstance(error, OSError) and error.errno in FULL:
            raise error
        logging.getLogger(__name__).debug("%s", job.label, exc_info=error)
        self.outcome.failed.append((job, _reason(error)))
        self._queue.tick()


def _measured(data: bytes, name: str) -> tuple[int, int]:
    """Size by the header; where that tells nothing, reading will say why."""
    try:
        return size_of(data, name=name)
    except ImageError:
        return 0, 0


def _reason(error: Exception) -> str:
    if isinstance(error, ImageError):
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = " ".join(str(error).split()) or type(error).__name__
    return said if isinstance(error, UserError) else said[:300]
