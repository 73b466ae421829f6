"""DISTS (Ding et al. 2020), as a loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.losses.backbones import open_backbone
from sr.losses.calibration import load_calibration

_LAYERS = {"relu1_2": 64, "relu2_2": 128, "relu3_3": 256, "relu4_3": 512, "relu5_3": 512}
_CHANNELS = [3, *_LAYERS.values()]


class DISTS(nn.Module):
    """1 - sum over channels of (alpha * l + beta * s), the mean over images (equations 5 to 7).

    l and s compare the means and the (co)variances over each feature map of the image itself and of VGG16 after the
    ReLU, with L2 pooling instead of max pooling. Equal textures at shifted positions therefore have a small distance.
    weights: of the backbone, as in `Perceptual`. calibration: a file with `alpha` and `beta` (default:
    that of the package `dists-pytorch`).
    """

    alpha: Tensor
    beta: Tensor

    def __init__(
        self, *, weights: str = "pretrained", calibration: str | None = None, checkpointing: bool = False
    ) -> None:
        super().__init__()
        chosen = dict.fromkeys(_LAYERS, 1.0)
        self.backbone = open_backbone("vgg16", chosen, weights=weights, checkpointing=checkpointing)
        for parent in list(self.backbone.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.MaxPool2d):
                    setattr(parent, name, _L2Pool())
        sizes = dict.fromkeys(("alpha", "beta"), sum(_CHANNELS))
        state = load_calibration(calibration, ("dists-pytorch", "DISTS_pytorch", "weights.pt"), sizes)
        total = state["alpha"].sum() + state["beta"].sum()
        self.register_buffer("alpha", state["alpha"] / total, persistent=False)
        self.register_buffer("beta", state["beta"] / total, persistent=False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = [target.detach(), *self.backbone(target).values()]
        got = [output, *self.backbone(output).values()]
        alphas, betas = self.alpha.split(_CHANNELS), self.beta.split(_CHANNELS)
        with torch.autocast(output.device.type, enabled=False):
            alike = [
                _similarity(a.float(), b.float(), alpha, beta)
                for a, b, alpha, beta in zip(got, wanted, alphas, betas, strict=True)
            ]
        return 1 - torch.stack(alike).sum()


def _similarity(a: Tensor, b: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """mean over images of sum over channels of alpha * l(a, b) + beta * s(a, b)."""
    c = 1e-6
    mean_a, mean_b = a.mean((2, 3)), b.mean((2, 3))
    var_a, var_b = a.var((2, 3), correction=0), b.var((2, 3), correction=0)
    covariance = (a * b).mean((2, 3)) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c) / (mean_a.square() + mean_b.square() + c)
    structure = (2 * covariance + c) / (var_a + var_b + c)
    return (alpha * luminance + beta * structure).sum(1).mean()


class _L2Pool(nn.Module):
    """sqrt(blur(x²)) at every second pixel: no aliasing, unlike the maximum (Hénaff and Simoncelli 2016)."""

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", torch.outer(row, row).expand(1, 1, 3, 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.get_buffer("kernel").expand(channels, 1, 3, 3)
        with torch.autocast(x.device.type, enabled=False):  # squares and 1e-12 exceed the range of half precision
            return (F.conv2d(x.float().square(), kernel, stride=2, padding=1, groups=channels) + 1e-12).sqrt()
