"""Frames of a video as images, with their times, and what is to be known of it to make it again."""

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

AHEAD = 4  # frames that are decoded, and that wait to be encoded
SD_LINES = 720  # below, an untagged video is of BT.601, from here on of BT.709: what players assume

# libavutil's numbers.
MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}  # AVColorSpace -> swscale's
BT709, BT601 = 1, 6
LIMITED, FULL = 1, 2


class VideoInfo(NamedTuple):
    """What is to be known of a video before its first frame. turn: quarters counterclockwise. matrix: AVColorSpace."""

    time_base: Fraction
    rate: Fraction
    frames: int
    deep: bool
    full: bool
    matrix: int
    primaries: int
    transfer: int
    aspect: Fraction
    turn: int


def look_at(av: Any, source: Path) -> VideoInfo:
    with av.open(str(source)) as file:
        if not file.streams.video:
            raise UserError("holds no video; give a file with an image")
        stream = file.streams.video[0]
        first = next(file.decode(stream), None)
        if first is None:
            raise UserError("holds no frame that can be decoded; copy it again")
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        frames = stream.frames or int((file.duration or 0) / 1e6 * rate)
        matrix = int(first.colorspace)
        if matrix not in MATRIX:
            matrix = BT601 if first.height < SD_LINES else BT709
        return VideoInfo(
            time_base=stream.time_base or 1 / rate,
            rate=rate,
            frames=frames,
            deep=first.format.components[0].bits > 8,
            full=int(first.color_range) == FULL or first.format.name.startswith("yuvj"),
            matrix=matrix,
            primaries=int(first.color_primaries),
            transfer=int(first.color_trc),
            aspect=stream.sample_aspect_ratio or Fraction(1),
            turn=round(first.rotation / 90) % 4,
        )


def frames_of(av: Any, source: Path, look: VideoInfo, *, skip: int) -> Generator[tuple[int, ImageData], None, None]:
    """(time in units of look.time_base, image), decoded ahead by a thread."""
    step = max(round(1 / look.rate / look.time_base), 1)
    with av.open(str(source)) as file, ThreadPoolExecutor(1) as pool:
        stream = file.streams.video[0]
        stream.thread_type = "AUTO"

        def timed() -> Iterator[tuple[int, Any]]:
            last: int | None = None
            for frame in file.decode(stream):
                time = frame.pts if frame.pts is not None else (0 if last is None else last + step)
                last = time if last is None else max(time, last + 1)
                yield last, frame

        decoded = islice(timed(), skip, None)

        def load() -> tuple[int, ImageData] | None:
            for time, frame in decoded:
                return time, _image(frame, look)
            return None

        waiting = deque([pool.submit(load) for _ in range(AHEAD)])
        while (loaded := waiting.popleft().result()) is not None:
            yield loaded
            waiting.append(pool.submit(load))


def _image(frame: Any, look: VideoInfo) -> ImageData:
    format, top = ("rgb48le", 65535) if look.deep else ("rgb24", 255)
    matrix, limits = MATRIX[look.matrix], FULL if look.full else LIMITED
    rgb = frame.reformat(
        format=format,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=limits,
        dst_color_range=FULL,
        interpolation=careful_bicubic(),
    ).to_ndarray()
    upright = np.ascontiguousarray(np.rot90(rgb, look.turn).transpose(2, 0, 1), dtype=np.float32)
    return ImageData(rgb=torch.from_numpy(upright).div_(top), bits=16 if look.deep else 8)


def careful_bicubic() -> int:
    from av.video.reformatter import Interpolation

    return Interpolation.BICUBIC | 0x40000 | 0x2000 | 0x4000  # ACCURATE_RND, FULL_CHR_H_INT, FULL_CHR_H_INP
