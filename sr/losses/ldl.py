"""Locally discriminative learning: Liang, Zeng and Zhang, CVPR 2022 (Details or Artifacts)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.data.batch import Batch

_WINDOW = 7


class LDL(nn.Module):
    """mean M |output - target|: L1 loss only where the generator makes artifacts.

    M = var(R)^(1/5) * var_7x7(R), R the error summed over channels: large where the error varies, in the image and
    around the pixel. M = 0 where the error of the generator's EMA is larger than that of the generator.
    M is a weight without gradient. Costs one more forward pass of the generator per step, without gradient.
    Images must have at least 4 pixels per side.
    """

    def compare(self, output: Tensor, *, batch: Batch, average: Callable[[Tensor], Tensor]) -> Tensor:
        target = batch.target.float()
        error = (output.float() - target).abs()
        with torch.no_grad():
            residual = error.sum(1, keepdim=True)
            steady = (average(batch.lq).float() - target).abs().sum(1, keepdim=True)
            weight = artefact_map(residual).masked_fill(residual < steady, 0)
        return (weight * error).mean()


def artefact_map(residual: Tensor) -> Tensor:
    """The map M before the EMA masks it: [B, 1, h, w] -> [B, 1, h, w], with reflected borders."""
    centred = residual - residual.mean((-2, -1), keepdim=True)  # keeps the variances below accurate
    padded = F.pad(centred, [_WINDOW // 2] * 4, mode="reflect")
    mean, square = F.avg_pool2d(padded, _WINDOW, 1), F.avg_pool2d(padded.square(), _WINDOW, 1)
    count = _WINDOW**2
    local = (square - mean.square()).clamp(min=0) * count / (count - 1)
    return residual.var((1, 2, 3), keepdim=True) ** 0.2 * local
