"""Segments of a video: encoded one by one, joined without encoding again, with all else of the source."""

import contextlib
import heapq
import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F

from sr.core.atomic import replacing
from sr.core.errors import UserError
from sr.images import ImageData
from sr.inference.video.frames import AHEAD, FULL, LIMITED, MATRIX, VideoInfo, careful_bicubic

CODECS = "libx264", "libx265", "libsvtav1"
END = "all"  # the file that tells that no segment is missing


class VideoSettings(NamedTuple):
    """How videos are written. codec: one of CODECS. crf: smaller is better and larger. preset: of x264 and x265.
    segment: frames."""

    codec: str = "libx264"
    crf: int = 17
    preset: str = "medium"
    segment: int = 240


def segments_in(parts: Path) -> list[Path]:
    """Those that are whole, from the first to the first that is missing."""
    found: list[Path] = []
    while (path := parts / f"{len(found):06}.nut").exists():
        found.append(path)
    return found


def encode_all(
    av: Any,
    frames: Iterator[tuple[int, ImageData]],
    parts: Path,
    work: Callable[[ImageData], ImageData],
    look: VideoInfo,
    film: VideoSettings,
    on_frames: Callable[[int], None],
) -> None:
    """Segment by segment, behind those that are there; encoded by a thread while the next frame is worked on."""
    count = 0
    with ThreadPoolExecutor(1) as pool:
        while True:
            first = next(frames, None)
            if first is None:
                break
            with replacing(parts / f"{len(segments_in(parts)):06}.nut", sync=True) as aside:
                segment = _Segment(av, aside, look, film)
                behind: deque[Future[None]] = deque()
                try:
                    for time, image in chain([first], islice(frames, film.segment - 1)):
                        behind.append(pool.submit(segment.add, time, work(image)))
                        count += 1
                        on_frames(count)
                        while len(behind) > AHEAD:
                            behind.popleft().result()
                    for future in behind:
                        future.result()
                finally:
                    pool.submit(segment.close).result()
    (parts / END).touch()


class _Segment:
    """A file of some frames. It opens with the first, whose size it takes."""

    def __init__(self, av: Any, path: Path, look: VideoInfo, film: VideoSettings) -> None:
        self._av, self._look, self._film = av, look, film
        self._file = av.open(str(path), "w", format="nut")
        self._stream: Any = None

    def add(self, time: int, image: ImageData) -> None:
        look = self._look
        height, width = image.rgb.shape[-2:]
        rgb = F.pad(image.rgb[None], (0, width % 2, 0, height % 2), mode="replicate")[0]  # 4:2:0 has even sides
        if self._stream is None:
            self._stream = self._opened(rgb.shape[-1], rgb.shape[-2])
        top, kind, format = (65535, np.uint16, "rgb48le") if look.deep else (255, np.uint8, "rgb24")
        values = (rgb.clamp(0, 1) * top).round_().permute(1, 2, 0).cpu().numpy().astype(kind)
        matrix, limits = MATRIX[look.matrix], FULL if look.full else LIMITED
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(values), format=format).reformat(
            format=self._stream.pix_fmt,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=FULL,
            dst_color_range=limits,
            interpolation=careful_bicubic(),
        )
        frame.colorspace, frame.color_range = look.matrix, limits
        frame.color_primaries, frame.color_trc = look.primaries, look.transfer
        frame.pts, frame.time_base = time, look.time_base
        for packet in self._stream.encode(frame):
            self._file.mux(packet)

    def close(self) -> None:
        if self._stream is not None:
            for packet in self._stream.encode(None):
                self._file.mux(packet)
        self._file.close()

    def _opened(self, width: int, height: int) -> Any:
        look, film = self._look, self._film
        options = {"crf": str(film.crf)} | ({"preset": film.preset} if film.codec in ("libx264", "libx265") else {})
        stream = self._file.add_stream(film.codec, rate=look.rate, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p10le" if look.deep else "yuv420p"
        context = stream.codec_context
        context.time_base, context.max_b_frames = look.time_base, 0
        context.colorspace, context.color_range = look.matrix, FULL if look.full else LIMITED
        context.color_primaries, context.color_trc = look.primaries, look.transfer
        context.sample_aspect_ratio = 1 / look.aspect if look.turn % 2 else look.aspect
        return stream


def check_sound(av: Any, source: Path, suffix: str) -> None:
    """Before hours of work: raises UserError where the container cannot hold the sound of the source."""
    with contextlib.ExitStack() as stack:
        given = stack.enter_context(av.open(str(source)))
        made = stack.enter_context(av.open(io.BytesIO(), "w", format=_muxer(suffix)))
        try:
            if [made.add_stream_from_template(one) for one in _kept(given, source.suffix == suffix)]:
                made.start_encoding()  # writes the header
        except (av.error.FFmpegError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            fix = "give a name that ends in .mkv or .mov, or convert it first"
            raise UserError(f"its sound does not go into {suffix} ({said}); {fix}") from None


def join(av: Any, segments: list[Path], source: Path, target: Path, suffix: str, look: VideoInfo) -> None:
    """The images of the segments and all else of the source, in the order of time, as they are."""
    with contextlib.ExitStack() as stack:
        given = stack.enter_context(av.open(str(source)))
        first = stack.enter_context(av.open(str(segments[0])))
        made = stack.enter_context(av.open(str(target), "w", format=_muxer(suffix)))
        made.metadata.update(given.metadata)
        video = made.add_stream_from_template(first.streams.video[0], opaque=True, rate=look.rate)
        video.time_base = look.time_base
        taken = {one.index: made.add_stream_from_template(one) for one in _kept(given, source.suffix == suffix)}
        for index, stream in taken.items():
            stream.metadata.update(given.streams[index].metadata)
        wanted = [given.streams[index] for index in taken]
        others = ((taken[packet.stream.index], packet) for packet in given.demux(wanted) if packet.size)
        images = ((video, packet) for packet in _packets(av, segments, look))
        merged = heapq.merge(images, others if wanted else (), key=lambda pair: _time(pair[1]))
        for stream, packet in merged:  # a packet's own stream may be gone with its file
            packet.stream = stream
            made.mux(packet)


def _time(packet: Any) -> float:
    stamps = (packet.dts, packet.pts, 0)
    return float(next(stamp for stamp in stamps if stamp is not None) * packet.time_base)


def _kept(given: Any, alike: bool) -> list[Any]:
    """Streams beside the images: all sound; words where the container stays of its kind, and so can hold them."""
    return [*given.streams.audio, *(given.streams.subtitles if alike else ())]


def _packets(av: Any, segments: list[Path], look: VideoInfo) -> Iterator[Any]:
    """Every packet with how long it lasts: until the next one, the last one as long as the mean."""
    before: Any = None
    for path in segments:
        with av.open(str(path)) as file:
            for packet in file.demux(video=0):
                if packet.pts is None:  # the end
                    continue
                packet.dts = packet.pts  # the order is that of the times; NUT does not always tell
                if before is not None:
                    before.duration = packet.pts - before.pts
                    yield before
                before = packet
    if before is not None:
        before.duration = round(1 / look.rate / before.time_base)
        yield before


def _muxer(suffix: str) -> str:
    return {".mkv": "matroska", ".mov": "mov"}.get(suffix.lower(), "mp4")
