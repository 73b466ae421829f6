"""LPIPS (Zhang et al. 2018), as a loss."""

from typing import Literal

import torch
from torch import Tensor, nn

from sr.losses.backbones import open_backbone
from sr.losses.calibration import load_calibration

Net = Literal["vgg", "alex", "squeeze"]
_VGG = dict.fromkeys(("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"), 1.0)
_NETS: dict[Net, tuple[str, dict[str, float] | None, tuple[int, ...]]] = {
    "vgg": ("vgg16", _VGG, (64, 128, 256, 512, 512)),
    "alex": ("alexnet", None, (64, 192, 384, 256, 256)),  # None: the backbone's default layers are those of LPIPS
    "squeeze": ("squeezenet1_1", None, (64, 128, 256, 384, 384, 512, 512)),
}


class LPIPS(nn.Module):
    """mean over images and sum over layers of mean over pixels of w · (f(output) - f(target))² (equation 1).

    f: features after the ReLU, normalized over the channels of each pixel; w >= 0: the published calibration,
    version 0.1. vgg is the usual choice for a loss, alex for a metric.
    weights: of the backbone, as in `Perceptual`. calibration: a file like `lpips/weights/v0.1/vgg.pth` (default:
    that of the package `lpips`).
    """

    def __init__(
        self,
        *,
        net: Net = "vgg",
        weights: str = "pretrained",
        calibration: str | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        name, layers, channels = _NETS[net]
        self.backbone = open_backbone(name, layers, weights=weights, checkpointing=checkpointing)
        published = ("lpips", "lpips", f"weights/v0.1/{net}.pth")
        sizes = {f"lin{place}.model.1.weight": size for place, size in enumerate(channels)}
        for place, linear in enumerate(load_calibration(calibration, published, sizes).values()):
            self.register_buffer(f"linear{place}", linear.view(-1, 1, 1), persistent=False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = list(self.backbone(target).values())
        got = list(self.backbone(output).values())
        with torch.autocast(output.device.type, enabled=False):
            terms = [
                (self.get_buffer(f"linear{place}") * (_unit(a) - _unit(b)).square()).sum(1).mean()
                for place, (a, b) in enumerate(zip(got, wanted, strict=True))
            ]
        return torch.stack(terms).sum()


def _unit(features: Tensor) -> Tensor:
    """Normalize over the channels. Where all are 0, vector_norm has gradient 0, unlike the root of a sum."""
    features = features.float()
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)
