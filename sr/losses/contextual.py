"""Losses on the distribution of features, for pairs that are not aligned pixel by pixel."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from sr.core.errors import UserError
from sr.losses.backbones import BackboneName, Layers
from sr.losses.perceptual import Perceptual
from sr.losses.weight_schedules import NonNegative

_CONTENT = {"conv3_2": 1.0, "conv4_2": 1.0}
_STAGES = dict.fromkeys(("relu1_2", "relu2_2", "relu3_4", "relu4_4", "relu5_4"), 1.0)
_SILENT = 1e-3


class Contextual(Perceptual):
    """sum over layers of weight * -log CX(output, target) (Mechrez, Talmi and Zelnik-Manor 2018, equations 2 to 5).

    CX is the mean over the target's features of the largest similarity w_ij / sum_k w_ik to a feature of the output,
    with w_ij = exp((1 - d_ij / (min_k d_ik + 1e-5)) / h) and d the cosine distance after the target's mean is
    subtracted. Features are compared wherever they are in the image. The loss is 0 for equal images without repeated
    features.
    bandwidth: h; a small one counts only the most similar feature. positions: largest number of features per image and
    layer, which are taken on a regular grid; memory and time grow with its square. Others as in `Perceptual`.
    """

    def __init__(
        self,
        *,
        backbone: BackboneName = "vgg19",
        layers: Layers = _CONTENT,
        weights: str = "pretrained",
        bandwidth: Annotated[float, Field(gt=0)] = 0.5,
        positions: PositiveInt = 1024,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(backbone=backbone, layers=layers, weights=weights, checkpointing=checkpointing)
        self.bandwidth, self.positions = bandwidth, positions

    def judge(self, got: Tensor, wanted: Tensor) -> Tensor:
        return contextual(self._sampled(got), self._sampled(wanted), bandwidth=self.bandwidth)

    def _sampled(self, features: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, n] with n <= positions."""
        height, width = features.shape[-2:]
        step = 1
        while math.ceil(height / step) * math.ceil(width / step) > self.positions:
            step += 1
        return features[..., ::step, ::step].flatten(2)


def contextual(got: Tensor, wanted: Tensor, *, bandwidth: float) -> Tensor:
    """The mean over the batch of -log CX; features [B, C, n] and [B, C, m]."""
    center = wanted.mean(-1, keepdim=True)
    a, b = (F.normalize(features - center, dim=1) for features in (got, wanted))
    distance = (1 - a.transpose(1, 2) @ b).clamp(min=0)
    relative = distance / (distance.amin(2, keepdim=True) + 1e-5)
    similarity = torch.softmax((1 - relative) / bandwidth, dim=2)
    return -similarity.amax(1).mean(1).log().mean()


class FDL(Perceptual):
    """Frequency distribution loss (Ni et al., CVPR 2024): sum over layers of weight * (amplitude + phase * phase term).

    Both terms are the sliced Wasserstein distance between patches of the spectra of the features: patches are projected
    on random unit vectors, and the sorted projections are compared by L1. The amplitude does not change when the image
    is shifted, so pairs need not be aligned. The transform is orthonormal here, so the amplitude is smaller than in
    the authors' code by the root of the number of pixels.
    phase: weight of the phase term. patch: side of the patches in coefficients. projections: number of random vectors,
    the same in every run. The image must have `patch` features per side at the deepest layer: 80 pixels by default.
    """

    def __init__(
        self,
        *,
        backbone: BackboneName = "vgg19",
        layers: Layers = _STAGES,
        weights: str = "pretrained",
        phase: NonNegative = 1.0,
        patch: PositiveInt = 5,
        projections: PositiveInt = 256,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(backbone=backbone, layers=layers, weights=weights, checkpointing=checkpointing)
        self.phase, self.patch, self.projections = phase, patch, projections
        self._vectors: dict[tuple[int, torch.device], Tensor] = {}

    def judge(self, got: Tensor, wanted: Tensor) -> Tensor:
        side = min(got.shape[-2:])
        if side < self.patch:
            raise UserError(
                f"fdl needs {self.patch} features per side at every layer, but one has {side}; increase data.gt_size, "
                "lower `patch`, or name shallower layers"
            )
        spectra = [torch.fft.fft2(features, norm="ortho") for features in (got, wanted)]
        loss = self._distance(*(spectrum.abs() for spectrum in spectra))
        return loss + self.phase * self._distance(*(_phase(spectrum) for spectrum in spectra)) if self.phase else loss

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Sliced Wasserstein distance between the patches of [B, C, h, w]."""
        vectors = self._unit_vectors(a.shape[1], a.device)
        one, other = (F.conv2d(x, vectors).flatten(2).sort(-1).values for x in (a, b))
        return (one - other).abs().mean()

    def _unit_vectors(self, channels: int, device: torch.device) -> Tensor:
        key = channels, device
        if key not in self._vectors:
            shape = self.projections, channels, self.patch, self.patch
            made = torch.randn(shape, generator=torch.Generator().manual_seed(channels))
            self._vectors[key] = F.normalize(made.flatten(1)).view(shape).to(device)
        return self._vectors[key]


def _phase(spectrum: Tensor) -> Tensor:
    """The angle in -pi..pi; 0 where the amplitude is so small that its gradient would be large."""
    silent = spectrum.detach().abs() < _SILENT
    return torch.atan2(spectrum.imag.masked_fill(silent, 0), spectrum.real.masked_fill(silent, 1))
