"""Convert files, folder trees, lists and tars, image by image, over all processes of a launch."""

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sr.core.errors import UserError
from sr.core.lock import Lock
from sr.core.progress import progress
from sr.distributed.rng import fork_rng
from sr.images import ImageData
from sr.inference.folders.manifest import FOLDER, Manifest, Setting, digest, sweep
from sr.inference.folders.pipeline import BATCH_PIXELS, Finish, Outcome, Pipeline, Reading
from sr.inference.folders.plan import ConversionJob, ConversionPlan, plan
from sr.inference.folders.work_queue import WorkQueue
from sr.inference.predictor import OnTiles
from sr.inference.video import VideoSettings, check_video, make_video
from sr.nets.io.fingerprint import fingerprint

__all__ = ["BATCH_PIXELS", "ConversionReport", "OnTiles", "convert", "fingerprint"]

POLL_SECONDS = 0.5  # between two updates of the progress bar

Work = Callable[[ImageData, OnTiles], ImageData]
Begin = Callable[[Sequence[ImageData], OnTiles], Finish]


@dataclass(frozen=True)
class ConversionReport:
    """The result for every input.

    kept: outputs that were up to date. failed: inputs without an output, with reasons. damaged: inputs of which a part
    is missing, with what is missing; their outputs are among `written` or `kept`. notes: what else the outputs lack.
    skipped: files in the folders that are no images, videos or tars, with reasons. seconds: of the whole conversion.
    way: device, precision and tiles, if a network made the outputs.
    """

    written: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    damaged: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[tuple[Path, str]] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    seconds: float = 0.0
    way: str = ""


def convert(
    inputs: Sequence[Path],
    output: Path,
    work: Work,
    *,
    title: str,
    begin: Begin | None = None,
    ahead: int = 0,
    settings: Mapping[str, Setting] | None = None,
    format: str | None = None,
    suffix: str = "",
    as_folder: bool = False,
    shared: bool = False,
    video: VideoSettings | None = None,
    **reading: Any,
) -> ConversionReport:
    """Write `work` of files, folder trees, `list:FILE`s and tars into `output`.

    An image that fails is reported, and the others are converted. Collective: each process takes a part of the jobs,
    and rank 0 returns the report of all.

    Args:
        output: a folder that mirrors the trees, or a file name when the input is one file. Outputs that `.sr/` in that
            folder records as made of the same content by the same `settings` are kept.
        work: called with a function for its progress, (done, all). Random draws in it depend on the stem of the file
            alone.
        begin: starts the same for one or several small images, without random draws; returns a function that waits for
            the results.
        ahead: how many calls of `begin` may wait for their results while the next one starts.
        settings: everything that changes pixels, except what is an argument here. None: nothing is recorded.
        format: png, jpg, webp or tif; None keeps the format of each image where it can be written, else png.
        suffix: appended to every stem.
        as_folder: `output` is a folder, even if its name has a suffix.
        shared: other launches may write other inputs to the same output folder at the same time. This takes no lock:
            outputs are replaced atomically, and each process appends to its own file of records, which are not merged.
        video: how videos are written.
        reading: see `Reading`.

    Raises:
        UserError: before the first image, where the plan cannot work or another process uses the output folder.
    """
    began, how, video = time.monotonic(), Reading(**reading), video or VideoSettings()
    digests = _digests(settings or {}, how.quality, video)
    queue: WorkQueue[ConversionJob] = WorkQueue()
    found = ConversionPlan([], [], [], None)
    if queue.is_main:
        earlier = Manifest(output, digests)
        earlier.load()
        found = plan(inputs, output, format=format, suffix=suffix, as_folder=as_folder, made=earlier.sources())
        _check_writable(found)
    folder = queue.share(found.folder if settings is not None else None)
    with _locked(folder if queue.is_main and not shared else None):
        manifest = Manifest(folder, digests)
        manifest.load()
        jobs = [job for job in found.jobs if how.again or not manifest.is_done(job)]
        begun = {job.target for job in jobs}
        damaged = [(job, manifest.damage(job)) for job in found.jobs if job.target not in begun]
        if queue.is_main:
            _prepare(jobs, manifest, folder, video)
        queue.begin(jobs)
        with _sigterm_interrupts(), _progress(queue, title, total=len(found.jobs)) as show:
            converter = _Converter(work, begin, ahead, video, digests["video"], how.strict, show)
            parts = list(queue.gather(Pipeline(queue, manifest, how, converter).run()))
        if queue.is_main and not shared:  # another launch may append to the files
            manifest.fold()
    queue.shutdown()
    report = _joined(found, queue.jobs, damaged, parts)
    return replace(report, seconds=round(time.monotonic() - began, 3))


def _prepare(jobs: Sequence[ConversionJob], manifest: Manifest, folder: Path | None, video: VideoSettings) -> None:
    """Report what videos will lose, record outputs among the inputs, and remove partial files of earlier runs."""
    _announce_videos(jobs, video)
    if folder is not None and any(_is_below(job.source, folder) for job in jobs):
        manifest.plan(jobs)
    sweep(jobs)


def _check_writable(found: ConversionPlan) -> None:
    """Raises UserError before any work where the output folder cannot be made or written to."""
    folder = found.folder or (found.jobs[0].target.parent if found.jobs else None)
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        problem = "" if os.access(folder, os.W_OK | os.X_OK) else "no permission, or a read-only file system"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise UserError(f"cannot write to {folder}: {problem}; choose another output folder")


def _locked(folder: Path | None) -> contextlib.AbstractContextManager[Any]:
    if folder is None:
        return contextlib.nullcontext()
    fix = "wait until it ends, choose another output folder, or give --shared to both if their inputs differ"
    return Lock(folder / FOLDER / "lock", used=f"{folder} is being written to", fix=fix)


def _is_below(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _announce_videos(jobs: Sequence[ConversionJob], video: VideoSettings) -> None:
    """Print what the outputs of videos will lack, before hours of work."""
    for job in jobs:
        if job.is_video:
            for note in check_video(job.source, job.target, video):
                print(f"sr: {job.source}: {note}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class _Converter:
    """Implements `pipeline.Converter` and shows the progress inside an image."""

    work: Work
    begin: Begin | None
    ahead: int
    video_settings: VideoSettings
    key: str
    strict: bool
    show: Callable[[str], None]

    @property
    def takes_several(self) -> bool:
        return self.begin is not None

    def one(self, job: ConversionJob, image: ImageData) -> ImageData:
        with fork_rng(job.stem):
            return self.work(image, lambda done, tiles: self.show(f"{job.label.name} {done}/{tiles}"))

    def several(self, jobs: Sequence[ConversionJob], images: Sequence[ImageData]) -> Finish:
        assert self.begin is not None
        name = jobs[0].label.name + (" ..." if len(jobs) > 1 else "")
        return self.begin(images, lambda done, tiles: self.show(f"{name} {done}/{tiles}"))

    def video(self, job: ConversionJob) -> tuple[int, str, str]:
        def frame(image: ImageData) -> ImageData:
            with fork_rng(job.stem):
                return self.work(image, lambda done, tiles: None)

        def shown(done: int, frames: int) -> None:
            self.show(f"{job.label.name} frame {done}" + (f"/{frames}" if frames else ""))

        how: dict[str, Any] = {"settings": self.video_settings, "key": self.key, "strict": self.strict}
        return make_video(job.source, job.target, frame, on_frames=shown, **how)


def _joined(
    found: ConversionPlan,
    jobs: Sequence[ConversionJob],
    damaged: Sequence[tuple[ConversionJob, str]],
    parts: Sequence[Outcome],
) -> ConversionReport:
    """The report of all processes, sorted by name."""
    begun = {job.target for job in jobs}
    kept = [job.target for job in found.jobs if job.target not in begun]
    kept += [job.target for part in parts for job in part.kept]
    failed = [(job.label, reason) for part in parts for job, reason in part.failed]
    written = [job.target for part in parts for job in part.written]
    lacking = [(job.label, damage) for job, damage in damaged if damage]
    lacking += [(job.label, damage) for part in parts for job, damage in part.damaged]
    notes = [(job.label, note) for part in parts for job, note in part.notes]
    return ConversionReport(
        written=sorted(written),
        kept=sorted(kept),
        failed=sorted(failed + found.refused),
        damaged=sorted(lacking),
        notes=sorted(notes),
        skipped=sorted(found.skipped),
    )


def _digests(settings: Mapping[str, Setting], quality: int, video: VideoSettings) -> dict[str, str]:
    """For each kind of job, a digest of what changes its output."""
    extra: dict[str, dict[str, Setting]] = {"exact": {}, "lossy": {"quality": quality}, "video": video._asdict()}
    return {kind: digest({**settings, **more}) for kind, more in extra.items()}


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM, from a scheduler or a launcher, ends the block as Ctrl-C does: what is being written is completed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress(queue: WorkQueue[ConversionJob], title: str, *, total: int) -> Iterator[Callable[[str], None]]:
    """One bar, on rank 0, for all processes. Yields a function that shows the position inside an image."""
    if not queue.is_main:
        yield lambda text: None
        return
    kept, over = total - len(queue.jobs), threading.Event()
    with progress(total=total, initial=kept, unit="image", desc=title, smoothing=0.05) as bar:

        def poll() -> None:
            while not over.wait(POLL_SECONDS):
                bar.update(kept + queue.done - bar.n)

        polling = threading.Thread(target=poll, daemon=True)
        polling.start()
        try:
            yield functools.partial(bar.set_postfix_str, refresh=False)
        finally:
            over.set()
            polling.join()
            bar.update(kept + queue.done - bar.n)
