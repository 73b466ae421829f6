"""Compression by real encoders, on the CPU: libjpeg, libwebp, the palette of GIF, and the intra frames of video codecs.

A list with one of these stages runs in the loader workers, so that training does not wait for copies from the device.
The result has 8 bits. It depends on (seed, position) and on the versions of Pillow and PyAV.
"""

import io
import os
from abc import abstractmethod
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import AfterValidator, Field
from torch import Tensor

from sr.config.ranges import ascending, some_share
from sr.core.errors import UserError
from sr.degrade.draws import Draw
from sr.degrade.stage import NotNegative, Prob, RandomStage, Range

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]
VideoCodec = Literal["h264", "hevc", "av1", "vp9", "mpeg2", "mpeg4"]
Quality = Annotated[int, Field(ge=1, le=100)]
Qualities = Annotated[tuple[Quality, Quality], AfterValidator(ascending)]
Colors = Annotated[int, Field(ge=2, le=256)]

SUBSAMPLINGS: dict[Subsampling, float] = {"4:2:0": 0.7, "4:4:4": 0.2, "4:2:2": 0.1}
CODECS: dict[VideoCodec, float] = {"h264": 0.5, "hevc": 0.25, "av1": 0.25}
QUANTIZERS: dict[VideoCodec, tuple[float, float]] = {
    "h264": (20, 40),
    "hevc": (22, 42),
    "av1": (25, 58),
    "vp9": (25, 58),
    "mpeg2": (2, 20),
    "mpeg4": (2, 20),
}
# Encoder, decoder and options of FFmpeg. One thread each, because the result of some encoders depends on their number.
FFMPEG: dict[VideoCodec, tuple[str, str, dict[str, str]]] = {
    "h264": ("libx264", "h264", {"preset": "medium"}),
    "hevc": ("libx265", "hevc", {"preset": "veryfast", "x265-params": "log-level=none:pools=none:frame-threads=1"}),
    "av1": ("libsvtav1", "libdav1d", {"preset": "10", "svtav1-params": "lp=1"}),
    "vp9": ("libvpx-vp9", "vp9", {"b:v": "0", "deadline": "realtime", "cpu-used": "6"}),
    "mpeg2": ("mpeg2video", "mpeg2video", {}),
    "mpeg4": ("mpeg4", "mpeg4", {}),
}
SMALLEST = 64  # side of a frame that all encoders accept


class _Codec(RandomStage):
    """Encode and decode each image on the host."""

    host = True

    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        return [self._coded(image, draw) for image, draw in zip(images, draws, strict=True)]

    def _coded(self, image: Tensor, draw: Draw) -> Tensor:
        levels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        made = self.code(np.ascontiguousarray(levels.repeat(3, 2) if levels.shape[2] == 1 else levels), draw)
        planes = torch.from_numpy(np.ascontiguousarray(made.transpose(2, 0, 1)))[: image.shape[0]]
        return planes.to(image.device).to(image.dtype) / 255

    @abstractmethod
    def code(self, pixels: np.ndarray, draw: Draw) -> np.ndarray:
        """uint8 RGB [h, w, 3] before and after the codec."""


class LibJpeg(_Codec):
    """JPEG by libjpeg-turbo through Pillow, as a file has it: real tables, subsampling and rounding to 8 bits.

    The stage `jpeg` is an approximation on the device, as in Real-ESRGAN, and much faster.

    Args:
        quality: bounds of the quality, whole numbers in 1..100.
        subsampling: relative frequencies of the chroma resolutions.
    """

    def __init__(
        self,
        *,
        prob: Prob = 1.0,
        quality: Qualities = (30, 95),
        subsampling: Annotated[dict[Subsampling, NotNegative], AfterValidator(some_share)] = SUBSAMPLINGS,
    ) -> None:
        super().__init__(prob)
        self.quality, self.subsampling = quality, subsampling

    def code(self, pixels: np.ndarray, draw: Draw) -> np.ndarray:
        chroma = draw.pick(list(self.subsampling), list(self.subsampling.values()))
        return _by_pillow(pixels, "JPEG", quality=_whole(draw, self.quality), subsampling=chroma)


class WebP(_Codec):
    """Lossy WebP by libwebp through Pillow: 4:2:0 chroma, block prediction, and a deblocking filter.

    Args:
        quality: bounds of the quality, whole numbers in 1..100.
    """

    def __init__(self, *, prob: Prob = 1.0, quality: Qualities = (30, 95)) -> None:
        super().__init__(prob)
        self.quality = quality

    def code(self, pixels: np.ndarray, draw: Draw) -> np.ndarray:
        return _by_pillow(pixels, "WEBP", quality=_whole(draw, self.quality))


class Palette(_Codec):
    """Indexed colors, as in GIF and PNG-8: an adaptive palette (median cut), with or without Floyd-Steinberg dithering.

    Args:
        colors: bounds of the size of the palette, in 2..256; drawn uniformly on a logarithmic scale.
        dither_prob: probability of dithering.
    """

    def __init__(
        self,
        *,
        prob: Prob = 0.5,
        colors: Annotated[tuple[Colors, Colors], AfterValidator(ascending)] = (16, 256),
        dither_prob: Prob = 0.5,
    ) -> None:
        super().__init__(prob)
        self.colors, self.dither_prob = colors, dither_prob

    def code(self, pixels: np.ndarray, draw: Draw) -> np.ndarray:
        low, high = np.log2(self.colors)
        count, image = round(2 ** draw.uniform((low, high))), Image.fromarray(pixels)
        indexed = image.quantize(count, Image.Quantize.MEDIANCUT)
        if draw.chance(self.dither_prob):
            indexed = image.quantize(palette=indexed, dither=Image.Dither.FLOYDSTEINBERG)
        return np.asarray(indexed.convert("RGB"))


class Video(_Codec):
    """An intra frame of a video codec (4:2:0), through PyAV: needs `pip install 'sr-train[video]'`.

    One image is coded as one key frame, so there are no artifacts of motion prediction.

    Args:
        codecs: relative frequencies of the codecs.
        quantizer: bounds of the strength of each codec, larger is worse: CRF of h264 and hevc (0..51) and of av1 and
            vp9 (0..63), quantizer scale of mpeg2 and mpeg4 (1..31). Codecs that are left out keep their default.
    """

    def __init__(
        self,
        *,
        prob: Prob = 1.0,
        codecs: Annotated[dict[VideoCodec, NotNegative], AfterValidator(some_share)] = CODECS,
        quantizer: dict[VideoCodec, Range] = QUANTIZERS,
    ) -> None:
        super().__init__(prob)
        self.codecs, self.quantizer = codecs, QUANTIZERS | quantizer
        missing = [name for name, share in codecs.items() if share and FFMPEG[name][0] not in _av().codecs_available]
        if missing:
            raise UserError(f"video: PyAV has no encoder for {missing[0]} here; set codecs.{missing[0]} to 0")

    def code(self, pixels: np.ndarray, draw: Draw) -> np.ndarray:
        codec = draw.pick(list(self.codecs), list(self.codecs.values()))
        return intra_frame(pixels, codec, round(draw.uniform(self.quantizer[codec])))


def intra_frame(pixels: np.ndarray, codec: VideoCodec, quantizer: int) -> np.ndarray:
    """Encode uint8 RGB [h, w, 3] as one key frame and decode it. Borders are repeated up to an even side >= 64."""
    av = _av()
    encoder, decoder, options = FFMPEG[codec]
    height, width = pixels.shape[:2]
    more = [max(SMALLEST, side + side % 2) - side for side in (height, width)]
    padded = np.pad(pixels, ((0, more[0]), (0, more[1]), (0, 0)), "edge")
    coder = av.CodecContext.create(encoder, "w")
    coder.height, coder.width, coder.pix_fmt = *padded.shape[:2], "yuv420p"
    coder.time_base, coder.framerate, coder.thread_count, coder.gop_size = Fraction(1, 25), Fraction(25), 1, 1
    scale = {"qmin": str(max(quantizer, 1)), "qmax": str(max(quantizer, 1))}
    coder.options = options | (scale if codec.startswith("mpeg") else {"crf": str(quantizer)})
    frame = av.VideoFrame.from_ndarray(padded, format="rgb24").reformat(format="yuv420p")
    frame.pts = 0
    packets = [*coder.encode(frame), *coder.encode(None)]
    back = av.CodecContext.create(decoder, "r")
    back.thread_count = 1
    if coder.extradata:
        back.extradata = coder.extradata
    frames = [one for packet in (*packets, None) for one in back.decode(packet)]
    return np.asarray(frames[0].to_ndarray(format="rgb24")[:height, :width])


def _av() -> Any:
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints its settings for every frame otherwise
    try:
        import av
    except ImportError:
        raise UserError("the stage video needs the package av; pip install 'sr-train[video]'") from None
    return av


def _by_pillow(pixels: np.ndarray, format: str, **options: Any) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def _whole(draw: Draw, bounds: tuple[int, int]) -> int:
    return int(draw.rng.integers(bounds[0], bounds[1] + 1))
