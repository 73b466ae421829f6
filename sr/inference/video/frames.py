"""Frames of a video as images, with their times, and everything about the video that the output repeats."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sr.core.errors import UserError
from sr.images import ImageData
from sr.inference.video.decode import Damage, decoded, deinterlaced, opened
from sr.inference.video.hdr import Hdr, dynamic_hdr, read_hdr

AHEAD = 4  # frames that are decoded, and that wait to be encoded
SD_LINES = 720  # an untagged video with fewer lines is BT.601, others are BT.709: what players assume
FIRST_FRAMES = 10  # that are searched for interlaced ones

# libavutil's numbers.
MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}  # AVColorSpace -> swscale's
BT709, BT601 = 1, 6
LIMITED, FULL = 1, 2


class VideoInfo(NamedTuple):
    """What is known of a video before its first frame is converted.

    bits: per channel. sampling: of chroma, "420", "422" or "444". matrix: AVColorSpace. turn: quarters
    counterclockwise. seconds: length by the header, or 0. alpha: the frames have an alpha channel. dynamic: name of its
    dynamic HDR metadata.
    """

    time_base: Fraction
    rate: Fraction
    frames: int
    bits: int
    sampling: str
    full: bool
    matrix: int
    primaries: int
    transfer: int
    aspect: Fraction
    turn: int
    seconds: float
    interlaced: bool
    alpha: bool
    hdr: Hdr
    dynamic: str

    @property
    def deep(self) -> bool:
        return self.bits > 8


def read_info(av: Any, source: Path) -> VideoInfo:
    """Raises UserError where nothing can be decoded."""
    with opened(av, source) as file:
        if not file.streams.video:
            raise UserError("holds no video stream; give a file that has one")
        stream = file.streams.video[0]
        firsts = list(islice(decoded(av, file, stream, Damage()), FIRST_FRAMES))
        if not firsts:
            raise UserError("holds no frame that can be decoded; copy it again")
        first = firsts[0]
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        frames = stream.frames or int((file.duration or 0) / 1e6 * rate)
        matrix = int(first.colorspace)
        if matrix not in MATRIX:
            matrix = BT601 if first.height < SD_LINES else BT709
        return VideoInfo(
            time_base=stream.time_base or 1 / rate,
            rate=rate,
            frames=frames,
            bits=first.format.components[0].bits,
            sampling=_sampling(av, first.format),
            full=int(first.color_range) == FULL or first.format.name.startswith("yuvj"),
            matrix=matrix,
            primaries=int(first.color_primaries),
            transfer=int(first.color_trc),
            aspect=stream.sample_aspect_ratio or Fraction(1),
            turn=round(first.rotation / 90) % 4,
            seconds=_declared_seconds(stream),
            interlaced=any(frame.interlaced_frame for frame in firsts),
            alpha=any(part.is_alpha for part in first.format.components),
            hdr=read_hdr(first),
            dynamic=dynamic_hdr(first),
        )


def _declared_seconds(stream: Any) -> float:
    """The length of a video stream in its header; 0 where there is none (Matroska keeps it as a tag)."""
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0


def _sampling(av: Any, format: Any) -> str:
    """The coarsest of the usual samplings that keeps every chroma sample of a pixel format."""
    if format.is_rgb:
        return "444"
    if len(format.components) < 3:  # grey, or grey and alpha
        return "420"
    side = 64
    across, down = side // format.chroma_width(side), side // format.chroma_height(side)
    return "444" if across == 1 else "422" if down == 1 else "420"


def frames_of(
    av: Any, source: Path, info: VideoInfo, *, skip: int, deinterlace: bool, damage: Damage
) -> Generator[tuple[int, ImageData], None, None]:
    """(time in units of info.time_base, image) from frame number `skip` on, decoded ahead by a thread."""
    step = max(round(1 / info.rate / info.time_base), 1)
    with opened(av, source) as file, ThreadPoolExecutor(1) as pool:
        stream = file.streams.video[0]
        stream.thread_type = "AUTO"
        frames = _until_end(_timed(decoded(av, file, stream, damage), info, step), info, damage)
        frames = deinterlaced(av, stream, frames) if deinterlace else frames
        chosen = islice(frames, skip, None)

        def load() -> tuple[int, ImageData] | None:
            for frame in chosen:
                return round(frame.pts * frame.time_base / info.time_base), _image(frame, info)
            return None

        waiting = deque([pool.submit(load) for _ in range(AHEAD)])
        while (loaded := waiting.popleft().result()) is not None:
            yield loaded
            waiting.append(pool.submit(load))


def _timed(frames: Iterator[Any], info: VideoInfo, step: int) -> Iterator[Any]:
    """The same frames with times that exist and increase. step: between two frames without times."""
    last: int | None = None
    for frame in frames:
        time = frame.pts if frame.pts is not None else (0 if last is None else last + step)
        last = time if last is None else max(time, last + 1)
        frame.pts, frame.time_base = last, info.time_base
        yield frame


def _until_end(frames: Iterator[Any], info: VideoInfo, damage: Damage) -> Iterator[Any]:
    """The same frames. Sets damage.cut where they end more than a second before the header says."""
    first = last = 0.0
    for number, frame in enumerate(frames):
        last = float(frame.pts * frame.time_base)
        first = last if number == 0 else first
        yield frame
    missing = info.seconds - (last - first)
    if not damage.cut and missing > 1:
        damage.cut = f"the last {missing:.0f} of {info.seconds:.0f} seconds are missing"


def _image(frame: Any, info: VideoInfo) -> ImageData:
    format, top = ("rgb48le", 65535) if info.deep else ("rgb24", 255)
    matrix, limits = MATRIX[info.matrix], FULL if info.full else LIMITED
    rgb = frame.reformat(
        format=format,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=limits,
        dst_color_range=FULL,
        interpolation=careful_bicubic(),
    ).to_ndarray()
    upright = np.ascontiguousarray(np.rot90(rgb, info.turn).transpose(2, 0, 1), dtype=np.float32)
    return ImageData(rgb=torch.from_numpy(upright).div_(top), bits=16 if info.deep else 8)


def careful_bicubic() -> int:
    """The interpolation flags with the smallest rounding errors."""
    from av.video.reformatter import Interpolation

    return Interpolation.BICUBIC | 0x40000 | 0x2000 | 0x4000  # ACCURATE_RND, FULL_CHR_H_INT, FULL_CHR_H_INP
