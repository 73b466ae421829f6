"""Convert videos frame by frame and keep their times, sound, colours, sampling, depth and rotation.

The output is encoded in segments of a fixed number of frames, files in a hidden folder next to it. An interrupted run
resumes after the last complete segment. When all segments exist they are joined, without re-encoding, with the sound
of the source. Frames are converted as RGB and stored in the matrix and range of the source. There are no B frames, so
that segments can be joined for any frame times. Needs PyAV: `pip install 'sr-train[video]'`.
"""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sr.core.atomic import DISK_FULL, replacing, short_name
from sr.core.digest import sha256_of
from sr.core.errors import UserError
from sr.core.lock import Lock
from sr.images import ImageData
from sr.inference.video.decode import Damage, deinterlacer, opened
from sr.inference.video.frames import VideoInfo, frames_of, read_info
from sr.inference.video.segments import (
    END,
    VideoSettings,
    check_sound,
    encode_all,
    join,
    pixel_format,
    segments_in,
)

__all__ = ["VideoSettings", "check_video", "make_video"]

OnFrames = Callable[[int, int], None]


def check_video(source: Path, target: Path, settings: VideoSettings) -> list[str]:
    """What the output will lack, one sentence each. A video that cannot be read yields none: `make_video` reports it.

    Raises UserError for `settings.deinterlace` without a filter for it.
    """
    try:
        av = _av()
    except UserError:
        return []
    if settings.deinterlace:
        deinterlacer(av)
    try:
        info = read_info(av, source)
        with opened(av, source) as file:
            notes = _dropped_streams(file, target.suffix == source.suffix)
        try:
            check_sound(av, source, target.suffix)
        except UserError as error:
            notes.append(str(error))
    except (UserError, av.error.FFmpegError, OSError):
        return []
    return [*_dropped_pixels(av, info, settings), *notes]


def _dropped_pixels(av: Any, info: VideoInfo, settings: VideoSettings) -> list[str]:
    notes = []
    if info.interlaced and not settings.deinterlace:
        notes.append("is interlaced, and its combs would be upscaled; give --deinterlace")
    format = pixel_format(av, settings.codec, info)
    if info.sampling not in format:
        to = ":".join(format.removeprefix("yuv")[:3])
        notes.append(f"{settings.codec} stores its {':'.join(info.sampling)} chroma as {to}; give another --codec")
    bits = next((depth for depth in (12, 10) if f"p{depth}" in format), 8)
    if info.bits > bits:
        notes.append(f"{settings.codec} stores its {info.bits} bits as {bits}; give --codec libx265")
    if info.alpha:
        notes.append("its transparency is not kept")
    if info.dynamic:
        notes.append(f"its {info.dynamic} metadata are not kept")
    return notes


def _dropped_streams(file: Any, alike: bool) -> list[str]:
    """alike: the container of the output is of the same kind."""
    streams = file.streams
    texts = bool(file.chapters()) and "mov" in file.format.name  # QuickTime stores chapters as a data stream
    kinds = [
        ("video streams behind the first", len(streams.video) - 1),
        ("subtitle streams", 0 if alike else len(streams.subtitles)),
        ("data streams", len(streams.data) - texts),
        ("attachments", len(streams.attachments)),
    ]
    return [f"its {kind} are not kept ({count})" for kind, count in kinds if count > 0]


def make_video(
    source: Path,
    target: Path,
    work: Callable[[ImageData], ImageData],
    *,
    settings: VideoSettings,
    key: str,
    strict: bool = False,
    on_frames: OnFrames = lambda done, frames: None,
) -> tuple[int, str, str]:
    """Write `work` of all frames to `target`.

    Args:
        key: of everything else that changes the frames. Segments of another key or source are made again.
        strict: refuse a video with damaged frames instead of leaving them out.
        on_frames: called with (frames done, all frames; 0 where the file does not declare it).

    Returns:
        The size of the output in bytes, the SHA-256 of the source, and what of the source is damaged ("" for nothing).

    Raises:
        UserError: the video cannot be read or written, or another process writes the same output.
    """
    av = _av()
    parts = target.with_name(f".{short_name(target.name)}.parts")
    seen = source.stat()
    used = Lock(
        parts.with_suffix(".lock"), used=f"{target} is being written", fix="wait until it ends or give another output"
    )
    try:
        info = read_info(av, source)
    except av.error.FFmpegError as error:
        raise UserError(f"is not a video that libav reads ({error.strerror or error}); copy it again") from None
    try:
        check_sound(av, source, target.suffix)
        with used:
            _same_work(parts, {"key": key, "bytes": seen.st_size, "mtime": seen.st_mtime_ns, "video": list(settings)})
            damage = _encoded(av, source, parts, work, info, settings, strict, on_frames)
            with replacing(target) as aside:
                join(av, segments_in(parts), source, aside, target.suffix, info)
            shutil.rmtree(parts)
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:  # the disk, not the video
            raise
        raise UserError(f"{error.strerror or error} (in libav); try another container, such as .mkv") from None
    return target.stat().st_size, sha256_of(source), damage


def _encoded(
    av: Any,
    source: Path,
    parts: Path,
    work: Callable[[ImageData], ImageData],
    info: VideoInfo,
    settings: VideoSettings,
    strict: bool,
    on_frames: OnFrames,
) -> str:
    """Make the segments that are missing. Returns what of the source is damaged."""
    end, damage = parts / END, Damage()
    done = len(segments_in(parts)) * settings.segment

    def checked(count: int) -> None:
        if strict and str(damage):
            raise UserError(f"{damage}; leave out --strict to convert the others")
        on_frames(done + count, info.frames)

    if not end.exists():
        frames = frames_of(av, source, info, skip=done, deinterlace=settings.deinterlace, damage=damage)
        with contextlib.closing(frames):
            encode_all(av, frames, parts, work, info, settings, checked)
        if not segments_in(parts):
            raise UserError("holds no frame that can be decoded; copy it again")
        with replacing(end) as aside:
            aside.write_text(str(damage), encoding="utf-8")
    return end.read_text(encoding="utf-8")


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise UserError("videos need the package av; pip install 'sr-train[video]'") from None
    return av


def _same_work(parts: Path, work: dict[str, Any]) -> None:
    """Empty the folder of segments unless it belongs to the same work."""
    mark, content = parts / "work.json", json.dumps(work)
    if not mark.exists() or mark.read_text(encoding="utf-8") != content:
        if parts.exists():
            shutil.rmtree(parts)
        with replacing(mark) as aside:
            aside.write_text(content, encoding="utf-8")
