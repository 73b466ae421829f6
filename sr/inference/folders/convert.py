"""Files, folder trees, lists and shards, picture by picture and over all processes of a launch."""

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

from sr.distributed.rng import seeded
from sr.images import Picture
from sr.inference.folders.manifest import Records, Setting, digest, fingerprint, sweep
from sr.inference.folders.pipeline import TOGETHER_PIXELS, How, Outcome, Pipeline
from sr.inference.folders.plan import Job, Plan, plan
from sr.inference.folders.work_queue import Crew
from sr.inference.predictor import OnTiles
from sr.inference.video import Film, make_video

__all__ = ["TOGETHER_PIXELS", "OnTiles", "Report", "convert", "fingerprint"]

LOOK_SECONDS = 0.5  # between two looks at what the other processes have done
TELL_SECONDS = 60.0  # between two lines in a log

Work = Callable[[Picture, OnTiles], Picture]
Many = Callable[[Sequence[Picture], OnTiles], Sequence[Picture]]


@dataclass(frozen=True)
class Report:
    """What became of the inputs. kept: outputs that were there already, of the same content and settings.
    failed: with reasons. ignored: files in the folders that are no pictures by name."""

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
    film: Film | None = None,
    **how: Any,
) -> Report:
    """Write `work` of files, folder trees, `list:FILE`s and tars into `output`; a picture that fails is reported and
    the rest goes on. Collective: on several processes each takes its part, and rank 0 has the report of all.

    output: a folder that mirrors the trees, or a file name when the input is one file. What `.sr/` in that folder says
    was made of the same content by the same `settings` (all that changes pixels, but for what is named here) is kept,
    unless `again`; without settings nothing is remembered. format: png, jpg, webp or tif; None keeps each picture's own
    where that can be written, else png. suffix: put behind every stem. work: called with a function for its progress,
    (done, all); random draws in it depend on the file's stem alone. many: the same for several small pictures at once,
    without draws. film: how videos are written. how: see `How`. Raises UserError before the first picture when the plan
    cannot work.
    """
    chosen, film = How(**how, again=again), film or Film()
    crew: Crew[Job] = Crew()
    found = plan(inputs, output, format=format, suffix=suffix) if crew.is_main else Plan([], [], [], None)
    folder = crew.share(found.folder if settings is not None else None)
    records = Records(folder, _digests(settings or {}, chosen.quality, film))
    records.load()
    crew.begin([job for job in found.jobs if again or not records.is_done(job)])
    if crew.is_main:
        sweep(crew.jobs)
    with _ended_alike(), _progress(crew, title, all=len(found.jobs)) as show:
        at_work = _AtWork(work, many, film, records.settings["video"], show)
        parts = list(crew.gather(Pipeline(crew, records, chosen, at_work).run()))
    if crew.is_main:
        records.fold()
    crew.part()
    return _joined(found, crew.jobs, parts)


@dataclass(frozen=True)
class _AtWork:
    """What is done with a job, and shown of it."""

    work: Work
    many: Many | None
    film: Film
    key: str
    show: Callable[[str], None]

    @property
    def takes_several(self) -> bool:
        return self.many is not None

    def one(self, job: Job, picture: Picture) -> Picture:
        with seeded(job.stem):
            return self.work(picture, lambda done, tiles: self.show(f"{job.label.name} {done}/{tiles}"))

    def several(self, jobs: Sequence[Job], pictures: Sequence[Picture]) -> Sequence[Picture]:
        assert self.many is not None
        return self.many(pictures, lambda done, tiles: self.show(f"{jobs[0].label.name} ... {done}/{tiles}"))

    def video(self, job: Job) -> tuple[int, str]:
        def frame(picture: Picture) -> Picture:
            with seeded(job.stem):
                return self.work(picture, lambda done, tiles: None)

        def shown(done: int, frames: int) -> None:
            self.show(f"{job.label.name} frame {done}" + (f"/{frames}" if frames else ""))

        return make_video(job.source, job.target, frame, film=self.film, key=self.key, on_frames=shown)


def _joined(found: Plan, jobs: Sequence[Job], parts: Sequence[Outcome]) -> Report:
    """Of all processes, by name."""
    begun = {job.target for job in jobs}
    kept = [job.target for job in found.jobs if job.target not in begun]
    kept += [job.target for part in parts for job in part.kept]
    failed = [(job.label, reason) for part in parts for job, reason in part.failed]
    written = [job.target for part in parts for job in part.written]
    return Report(sorted(written), sorted(kept), sorted(failed + found.refused), found.ignored)


def _digests(settings: Mapping[str, Setting], quality: int, film: Film) -> dict[str, str]:
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
def _progress(crew: Crew[Job], title: str, *, all: int) -> Iterator[Callable[[str], None]]:
    """One bar, on rank 0, for all processes. Yields what shows the place inside a picture."""
    if not crew.is_main:
        yield lambda text: None
        return
    begun, over = len(crew.jobs), threading.Event()
    with tqdm(total=all, initial=all - begun, unit="picture", desc=title, disable=None, smoothing=0.05) as bar:

        def look() -> None:
            told = time.monotonic()
            while not over.wait(LOOK_SECONDS):
                bar.update(all - begun + crew.done - bar.n)
                if bar.disable and time.monotonic() - told > TELL_SECONDS:  # a file takes what is printed, no terminal
                    told = time.monotonic()
                    print(f"sr: {all - begun + crew.done} of {all} done", file=sys.stderr, flush=True)

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        try:
            yield bar.set_postfix_str
        finally:
            over.set()
            looking.join()
            bar.update(all - begun + crew.done - bar.n)
