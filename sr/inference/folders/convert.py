"""Files, folder trees, lists and shards, image by image and over all processes of a launch."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sr.distributed.rng import fork_rng
from sr.images import ImageData
from sr.inference.folders.manifest import Manifest, Setting, digest, fingerprint, sweep
from sr.inference.folders.pipeline import TOGETHER_PIXELS, How, Outcome, Pipeline
from sr.inference.folders.plan import ConversionJob, ConversionPlan, plan
from sr.inference.folders.work_queue import WorkQueue
from sr.inference.predictor import OnTiles
from sr.inference.video import VideoSettings, make_video

__all__ = ["TOGETHER_PIXELS", "ConversionReport", "OnTiles", "convert", "fingerprint"]

LOOK_SECONDS = 0.5  # between two looks at what the other processes have done
TELL_SECONDS = 60.0  # between two lines in a log

Work = Callable[[ImageData, OnTiles], ImageData]
Many = Callable[[Sequence[ImageData], OnTiles], Sequence[ImageData]]


@dataclass(frozen=True)
class ConversionReport:
    """What became of the inputs. kept: outputs that were there already, of the same content and settings.
    failed: with reasons. ignored: files in the folders that are no images by name."""

    written: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)


def convert(
    inputs: Sequence[Path],
    output: Path,
    work: Work,
    *,
    title: str,
    many: Many | None = None,
    settings: Mapping[str, Setting] | None = None,
    format: str | None = None,
    suffix: str = "",
    again: bool = False,
    film: VideoSettings | None = None,
    **how: Any,
) -> ConversionReport:
    """Write `work` of files, folder trees, `list:FILE`s and tars into `output`; an image that fails is reported and
    the rest goes on. Collective: on several processes each takes its part, and rank 0 has the report of all.

    output: a folder that mirrors the trees, or a file name when the input is one file. What `.sr/` in that folder says
    was made of the same content by the same `settings` (all that changes pixels, but for what is named here) is kept,
    unless `again`; without settings nothing is remembered. format: png, jpg, webp or tif; None keeps each image's own
    where that can be written, else png. suffix: put behind every stem. work: called with a function for its progress,
    (done, all); random draws in it depend on the file's stem alone. many: the same for several small images at once,
    without draws. film: how videos are written. how: see `How`. Raises UserError before the first image when the plan
    cannot work.
    """
    chosen, film = How(**how, again=again), film or VideoSettings()
    queue: WorkQueue[ConversionJob] = WorkQueue()
    found = plan(inputs, output, format=format, suffix=suffix) if queue.is_main else ConversionPlan([], [], [], None)
    folder = queue.share(found.folder if settings is not None else None)
    records = Manifest(folder, _digests(settings or {}, chosen.quality, film))
    records.load()
    queue.begin([job for job in found.jobs if again or not records.is_done(job)])
    if queue.is_main:
        sweep(queue.jobs)
    with _ended_alike(), _progress(queue, title, all=len(found.jobs)) as show:
        at_work = _AtWork(work, many, film, records.settings["video"], show)
        parts = list(queue.gather(Pipeline(queue, records, chosen, at_work).run()))
    if queue.is_main:
        records.fold()
    queue.shutdown()
    return _joined(found, queue.jobs, parts)


@dataclass(frozen=True)
class _AtWork:
    """What is done with a job, and shown of it."""

    work: Work
    many: Many | None
    film: VideoSettings
    key: str
    show: Callable[[str], None]

    @property
    def takes_several(self) -> bool:
        return self.many is not None

    def one(self, job: ConversionJob, image: ImageData) -> ImageData:
        with fork_rng(job.stem):
            return self.work(image, lambda done, tiles: self.show(f"{job.label.name} {done}/{tiles}"))

    def several(self, jobs: Sequence[ConversionJob], images: Sequence[ImageData]) -> Sequence[ImageData]:
        assert self.many is not None
        return self.many(images, lambda done, tiles: self.show(f"{jobs[0].label.name} ... {done}/{tiles}"))

    def video(self, job: ConversionJob) -> tuple[int, str]:
        def frame(image: ImageData) -> ImageData:
            with fork_rng(job.stem):
                return self.work(image, lambda done, tiles: None)

        def shown(done: int, frames: int) -> None:
            self.show(f"{job.label.name} frame {done}" + (f"/{frames}" if frames else ""))

        return make_video(job.source, job.target, frame, film=self.film, key=self.key, on_frames=shown)


def _joined(found: ConversionPlan, jobs: Sequence[ConversionJob], parts: Sequence[Outcome]) -> ConversionReport:
    """Of all processes, by name."""
    begun = {job.target for job in jobs}
    kept = [job.target for job in found.jobs if job.target not in begun]
    kept += [job.target for part in parts for job in part.kept]
    failed = [(job.label, reason) for part in parts for job, reason in part.failed]
    written = [job.target for part in parts for job in part.written]
    return ConversionReport(sorted(written), sorted(kept), sorted(failed + found.refused), found.ignored)


def _digests(settings: Mapping[str, Setting], quality: int, film: VideoSettings) -> dict[str, str]:
    """For each kind of job, of what changes its output."""
    extra: dict[str, dict[str, Setting]] = {"exact": {}, "lossy": {"quality": quality}, "video": film._asdict()}
    return {kind: digest({**settings, **more}) for kind, more in extra.items()}


@contextmanager
def _ended_alike() -> Iterator[None]:
    """SIGTERM, from a scheduler or a launcher, ends the block as Ctrl-C does: what is being written is finished."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress(queue: WorkQueue[ConversionJob], title: str, *, all: int) -> Iterator[Callable[[str], None]]:
    """One bar, on rank 0, for all processes. Yields what shows the place inside an image."""
    if not queue.is_main:
        yield lambda text: None
        return
    begun, over = len(queue.jobs), threading.Event()
    with tqdm(total=all, initial=all - begun, unit="image", desc=title, disable=None, smoothing=0.05) as bar:

        def look() -> None:
            told = time.monotonic()
            while not over.wait(LOOK_SECONDS):
                bar.update(all - begun + queue.done - bar.n)
                if bar.disable and time.monotonic() - told > TELL_SECONDS:  # a file takes what is printed, no terminal
                    told = time.monotonic()
                    print(f"sr: {all - begun + queue.done} of {all} done", file=sys.stderr, flush=True)

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        try:
            yield bar.set_postfix_str
        finally:
            over.set()
            looking.join()
            bar.update(all - begun + queue.done - bar.n)
