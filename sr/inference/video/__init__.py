"""Videos, frame by frame: their times, their sound, their colours and their turn stay; work is kept by the segment.

A segment is so many frames, encoded into a file of its own beside the output and renamed when whole; the next start
goes on behind the last one. When all are there they are joined, without encoding again, with the sound of the source.
Frames go through as RGB and come back in the matrix and range of the source. There are no B frames, so that segments
join whatever the times of their frames are. Through PyAV: `pip install 'sr-train[video]'`.
"""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sr.core.atomic import replacing
from sr.core.digest import sha256_of
from sr.core.errors import UserError
from sr.images import ImageData
from sr.inference.folders.pipeline import FULL
from sr.inference.video.frames import frames_of, look_at
from sr.inference.video.segments import CODECS, END, VideoSettings, check_sound, encode_all, join, segments_in

__all__ = ["CODECS", "Film", "make_video"]

OnFrames = Callable[[int, int], None]


def make_video(
    source: Path,
    target: Path,
    work: Callable[[ImageData], ImageData],
    *,
    film: VideoSettings,
    key: str,
    on_frames: OnFrames = lambda done, frames: None,
) -> tuple[int, str]:
    """Write `work` of all frames; returns the size of the output and the SHA-256 of the source.

    key: of settings; segments that were made by others, or of another source, are made again. on_frames: called with
    (done, all; 0 where the file does not say). Raises UserError.
    """
    av = _av()
    parts = target.with_name(f".{target.name}.parts")
    seen = source.stat()
    try:
        look = look_at(av, source)
        check_sound(av, source, target.suffix)
        _same_work(parts, {"key": key, "bytes": seen.st_size, "mtime": seen.st_mtime_ns, "film": list(film)})
        done = len(segments_in(parts)) * film.segment
        if not (parts / END).exists():
            with contextlib.closing(frames_of(av, source, look, skip=done)) as frames:
                encode_all(av, frames, parts, work, look, film, lambda n: on_frames(done + n, look.frames))
        with replacing(target) as aside:
            join(av, segments_in(parts), source, aside, target.suffix, look)
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in FULL:  # the disk, not the video
            raise
        raise UserError(f"{error.strerror or error} (in libav); try another container, as .mkv") from None
    shutil.rmtree(parts)
    return target.stat().st_size, sha256_of(source)


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise UserError("videos need the package av; pip install 'sr-train[video]'") from None
    return av


def _same_work(parts: Path, work: dict[str, Any]) -> None:
    """An empty folder of segments, unless what lies there is of the same work."""
    mark, content = parts / "work.json", json.dumps(work)
    if not mark.exists() or mark.read_text(encoding="utf-8") != content:
        if parts.exists():
            shutil.rmtree(parts)
        with replacing(mark) as aside:
            aside.write_text(content, encoding="utf-8")
