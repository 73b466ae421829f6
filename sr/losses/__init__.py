"""Losses: one file and one table row each. Weights and schedules are applied by the caller.

A reconstruction loss is a module called with (output, target), both [B, 3, h, w] in 0..1; it returns a float32 scalar.
A loss that needs more than the target has `compare(output, *, batch, average)` instead
(sr.tasks.task.ReconstructionLosses).
An adversarial loss has `generator` and `discriminator`, called with (critic, real=..., fake=...), both [B, 3, h, w];
they return float32 scalars by name.
"""

from sr.losses.adversarial.hinge import Hinge
from sr.losses.adversarial.lsgan import LSGAN
from sr.losses.adversarial.matching import FeatureMatching
from sr.losses.adversarial.penalties import R1, R2, GradientPenalty
from sr.losses.adversarial.relativistic import Relativistic
from sr.losses.adversarial.softplus import Softplus
from sr.losses.adversarial.vanilla import Vanilla
from sr.losses.adversarial.wgan import WGAN, WGANGP
from sr.losses.colour import Colour
from sr.losses.contextual import FDL, Contextual
from sr.losses.distill import Distill
from sr.losses.dists import DISTS
from sr.losses.edges import Edge, Gradient
from sr.losses.frequency import FFT, FocalFrequency
from sr.losses.ldl import LDL
from sr.losses.lpips import LPIPS
from sr.losses.oklab import Oklab
from sr.losses.perceptual import VGG19, Perceptual, Style
from sr.losses.pixel import L1, L2, Charbonnier, Huber
from sr.losses.structure import MSSSIM, SSIM
from sr.losses.variation import TV
from sr.losses.wavelet import Wavelet

RECONSTRUCTION: dict[str, type] = {
    "l1": L1,
    "l2": L2,
    "charbonnier": Charbonnier,
    "huber": Huber,
    "ssim": SSIM,
    "ms_ssim": MSSSIM,
    "tv": TV,
    "fft": FFT,
    "focal_frequency": FocalFrequency,
    "gradient": Gradient,
    "edge": Edge,
    "colour": Colour,
    "oklab": Oklab,
    "wavelet": Wavelet,
    "ldl": LDL,
    "perceptual": Perceptual,
    "vgg19": VGG19,
    "style": Style,
    "lpips": LPIPS,
    "dists": DISTS,
    "contextual": Contextual,
    "fdl": FDL,
    "distill": Distill,
}
ADVERSARIAL: dict[str, type] = {
    "vanilla": Vanilla,
    "lsgan": LSGAN,
    "hinge": Hinge,
    "softplus": Softplus,
    "wgan": WGAN,
    "wgan_gp": WGANGP,
    "relativistic": Relativistic,
}
LOGITS_ALONE = frozenset({"vanilla", "lsgan", "hinge", "softplus", "wgan", "relativistic"})
"""GAN losses that use only the logits: no inner features of the critic and no second-order gradients."""
GAN_TERMS: dict[str, type] = {
    "r1": R1,
    "r2": R2,
    "gradient_penalty": GradientPenalty,
    "feature_matching": FeatureMatching,
}
