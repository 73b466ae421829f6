"""Degradation: a list of stages that turns ground truth into LR inputs; and augmentations that mix the pairs."""

from sr.degrade.blur import Blur, Sinc
from sr.degrade.chroma import Chroma
from sr.degrade.codecs import LibJpeg, Palette, Video, WebP
from sr.degrade.jpeg import Jpeg
from sr.degrade.mixing import CutBlur, CutMix, Mixing, Mixup, ResizeMix
from sr.degrade.noise import Noise
from sr.degrade.one_of import OneOf
from sr.degrade.pipeline import Degradation
from sr.degrade.resize import Downscale, Resize
from sr.degrade.sharpen import Sharpen
from sr.degrade.stage import Stage
from sr.degrade.tones import Dither, Halo, Screentone

STAGES = {
    "sharpen": Sharpen,
    "blur": Blur,
    "resize": Resize,
    "noise": Noise,
    "jpeg": Jpeg,
    "libjpeg": LibJpeg,
    "webp": WebP,
    "video": Video,
    "palette": Palette,
    "chroma": Chroma,
    "screentone": Screentone,
    "dither": Dither,
    "halo": Halo,
    "sinc": Sinc,
    "downscale": Downscale,
    "one_of": OneOf,
}

AUGMENTATIONS: dict[str, type[Mixing]] = {
    "mixup": Mixup,
    "cutmix": CutMix,
    "resizemix": ResizeMix,
    "cutblur": CutBlur,
}

__all__ = ["AUGMENTATIONS", "STAGES", "Degradation", "Stage"]
