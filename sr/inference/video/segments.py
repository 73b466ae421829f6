"""Segments of a video: encoded one by one, then joined with the other streams of the source without re-encoding."""

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
from sr.inference.video.decode import opened
from sr.inference.video.frames import AHEAD, FULL, LIMITED, MATRIX, VideoInfo, careful_bicubic
from sr.inference.video.hdr import encoder_options

END = "all"  # a file that exists when no segment is missing; it holds what of the source is damaged


class VideoSettings(NamedTuple):
    """How videos are written.

    Args:
        codec: one of CODECS.
        crf: constant rate factor; smaller is better and larger.
        preset: of x264 and x265.
        segment: frames per segment.
        deinterlace: make one progressive frame of each interlaced frame before it is converted.
    """

    codec: str = "libx264"
    crf: int = 17
    preset: str = "medium"
    segment: int = 240
    deinterlace: bool = False


def segments_in(parts: Path) -> list[Path]:
    """The complete segments, up to the first that is missing."""
    found: list[Path] = []
    while (path := parts / f"{len(found):06}.nut").exists():
        found.append(path)
    return found


def encode_all(
    av: Any,
    frames: Iterator[tuple[int, ImageData]],
    parts: Path,
    work: Callable[[ImageData], ImageData],
    info: VideoInfo,
    settings: VideoSettings,
    on_frames: Callable[[int], None],
) -> None:
    """Write the segments that follow the complete ones; a thread encodes while the next frame is converted."""
    count = 0
    with ThreadPoolExecutor(1) as pool:
        while True:
            first = next(frames, None)
            if first is None:
                break
            with replacing(parts / f"{len(segments_in(parts)):06}.nut", sync=True) as aside:
                segment = _Segment(av, aside, info, settings)
                behind: deque[Future[None]] = deque()
                try:
                    for time, image in chain([first], islice(frames, settings.segment - 1)):
                        behind.append(pool.submit(segment.add, time, work(image)))
                        count += 1
                        on_frames(count)
                        while len(behind) > AHEAD:
                            behind.popleft().result()
                    for future in behind:
                        future.result()
                finally:
                    pool.submit(segment.close).result()


def pixel_format(av: Any, codec: str, info: VideoInfo) -> str:
    """The pixel format of the encoder that is closest to that of the source: first its sampling, then its depth."""
    available = {format.name for format in av.Codec(codec, "w").video_formats}
    depths = [depth for depth in ("12le", "10le", "") if info.bits >= int(depth.removesuffix("le") or 8)]
    samplings = ["444", "422", "420"][("444", "422", "420").index(info.sampling) :]
    names = [f"yuv{sampling}p{depth}" for sampling in samplings for depth in depths]
    return next(name for name in names if name in available)


class _Segment:
    """A file of some frames. It is opened with the first frame, which decides its size."""

    def __init__(self, av: Any, path: Path, info: VideoInfo, settings: VideoSettings) -> None:
        self._av, self._info, self._settings = av, info, settings
        self._format = pixel_format(av, settings.codec, info)
        self._file = av.open(str(path), "w", format="nut")
        self._stream: Any = None

    def add(self, time: int, image: ImageData) -> None:
        info = self._info
        height, width = image.rgb.shape[-2:]
        right, below = width % 2 * ("444" not in self._format), height % 2 * ("420" in self._format)
        rgb = F.pad(image.rgb[None], (0, right, 0, below), mode="replicate")[0]  # whole samples of chroma
        if self._stream is None:
            self._stream = self._opened(rgb.shape[-1], rgb.shape[-2])
        top, kind, format = (65535, np.uint16, "rgb48le") if info.deep else (255, np.uint8, "rgb24")
        values = (rgb.clamp(0, 1) * top).round_().permute(1, 2, 0).cpu().numpy().astype(kind)
        matrix, limits = MATRIX[info.matrix], FULL if info.full else LIMITED
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(values), format=format).reformat(
            format=self._stream.pix_fmt,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=FULL,
            dst_color_range=limits,
            interpolation=careful_bicubic(),
        )
        frame.colorspace, frame.color_range = info.matrix, limits
        frame.color_primaries, frame.color_trc = info.primaries, info.transfer
        frame.pts, frame.time_base = time, info.time_base
        for packet in self._stream.encode(frame):
            self._file.mux(packet)

    def close(self) -> None:
        if self._stream is not None:
            for packet in self._stream.encode(None):
                self._file.mux(packet)
        self._file.close()

    def _opened(self, width: int, height: int) -> Any:
        info, settings = self._info, self._settings
        options = {"crf": str(settings.crf), **encoder_options(info.hdr, settings.codec)}
        options |= {"preset": settings.preset} if settings.codec in ("libx264", "libx265") else {}
        stream = self._file.add_stream(settings.codec, rate=info.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, self._format
        context = stream.codec_context
        context.time_base, context.max_b_frames = info.time_base, 0
        context.colorspace, context.color_range = info.matrix, FULL if info.full else LIMITED
        context.color_primaries, context.color_trc = info.primaries, info.transfer
        context.sample_aspect_ratio = 1 / info.aspect if info.turn % 2 else info.aspect
        return stream


def check_sound(av: Any, source: Path, suffix: str) -> None:
    """Raises UserError, before hours of work, where the container cannot hold the sound of the source."""
    with contextlib.ExitStack() as stack:
        given = stack.enter_context(opened(av, source))
        made = stack.enter_context(av.open(io.BytesIO(), "w", format=_muxer(suffix)))
        try:
            if [made.add_stream_from_template(one) for one in _kept(given, source.suffix == suffix)]:
                made.start_encoding()  # writes the header
        except (av.error.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            fix = "give a name that ends in .mkv or .mov, or convert it first"
            raise UserError(f"{suffix} cannot hold its sound ({reason}); {fix}") from None


def join(av: Any, segments: list[Path], source: Path, target: Path, suffix: str, info: VideoInfo) -> None:
    """Write the frames of the segments and the other streams of the source, ordered by time, without re-encoding."""
    with contextlib.ExitStack() as stack:
        given = stack.enter_context(opened(av, source))
        first = stack.enter_context(av.open(str(segments[0])))
        about = given.metadata
        keys = {"movflags": "use_metadata_tags"} if any(key.startswith("com.") for key in about) else {}  # cameras'
        options = keys if _muxer(suffix) == "mov" else {}
        made = stack.enter_context(av.open(str(target), "w", format=_muxer(suffix), options=options))
        made.metadata.update(about)
        with contextlib.suppress(av.error.FFmpegError, ValueError):  # the work of hours does not fail for them
            made.set_chapters(given.chapters())
        video = made.add_stream_from_template(first.streams.video[0], opaque=True, rate=info.rate)
        video.time_base = info.time_base
        video.metadata.update(_titles(given.streams.video[0].metadata))
        taken = {one.index: made.add_stream_from_template(one) for one in _kept(given, source.suffix == suffix)}
        for index, stream in taken.items():
            stream.metadata.update(given.streams[index].metadata)
        wanted = [given.streams[index] for index in taken]
        others = ((taken[packet.stream.index], packet) for packet in given.demux(wanted) if packet.size)
        images = ((video, packet) for packet in _packets(av, segments, info))
        merged = heapq.merge(images, others if wanted else (), key=lambda pair: _time(pair[1]))
        for stream, packet in merged:  # the stream of a packet may be closed with its file
            packet.stream = stream
            made.mux(packet)


def _titles(metadata: dict[str, str]) -> dict[str, str]:
    """Language and title of a stream. MP4 stores a title that it reads as `name`."""
    kept = {"language": metadata.get("language"), "title": metadata.get("title", metadata.get("name"))}
    return {key: value for key, value in kept.items() if value}


def _time(packet: Any) -> float:
    stamps = (packet.dts, packet.pts, 0)
    return float(next(stamp for stamp in stamps if stamp is not None) * packet.time_base)


def _kept(given: Any, alike: bool) -> list[Any]:
    """The other streams that the output keeps: all sound, and subtitles where the container is of the same kind."""
    return [*given.streams.audio, *(given.streams.subtitles if alike else ())]


def _packets(av: Any, segments: list[Path], info: VideoInfo) -> Iterator[Any]:
    """Every packet with its duration: until the next one; the last one takes the mean."""
    before: Any = None
    for path in segments:
        with av.open(str(path)) as file:
            for packet in file.demux(video=0):
                if packet.pts is None:  # the end
                    continue
                packet.dts = packet.pts  # there are no B frames, and NUT does not always store it
                if before is not None:
                    before.duration = packet.pts - before.pts
                    yield before
                before = packet
    if before is not None:
        before.duration = round(1 / info.rate / before.time_base)
        yield before


def _muxer(suffix: str) -> str:
    return {".mkv": "matroska", ".mov": "mov"}.get(suffix.lower(), "mp4")
