"""Losses on the features of a pretrained classification network (Johnson et al. 2016)."""

from typing import Literal

import torch
from pydantic import NonNegativeInt
from torch import Tensor, nn

from sr.losses.backbones import REAL_ESRGAN, BackboneName, Layers, open_backbone
from sr.losses.feature_cache import FeatureCache
from sr.losses.pixel import L1, L2, Charbonnier
from sr.losses.weight_schedules import NonNegative

Distance = Literal["l1", "l2", "charbonnier"]
DISTANCES: dict[Distance, type[nn.Module]] = {"l1": L1, "l2": L2, "charbonnier": Charbonnier}


class Perceptual(nn.Module):
    """sum over layers of weight * (distance of features + style_weight * distance of their Gram matrices).

    backbone: a row of `sr.losses.backbones`; `torchvision/NAME` for its networks of the kinds AlexNet, ConvNeXt,
    DenseNet, EfficientNet, MobileNet, ResNet, SqueezeNet and VGG; or `timm/NAME`. layers: their names and
    weights; by default, for vgg16 and vgg19 the last convolution of each block (`conv1_2` is before the ReLU, as in
    ESRGAN; `relu1_2` is after it), for torchvision the last layer of each resolution, and for timm the last four layers
    of its `feature_info`, each with weight 1.
    weights: `pretrained` (downloaded once, from torchvision or timm), a name of torchvision's weights for this network
    (`IMAGENET1K_V2`, `IMAGENET1K_FEATURES`), whose normalization is used, a file with that state dict, or `random` (to
    test everything else; the loss is then meaningless).
    checkpointing: store only the outputs of the named layers for the backward pass, for one more forward pass.
    cache: MiB of device memory for features of repeated targets, see `FeatureCache`; 0 disables it.
    The backbone is frozen and ends at the last named layer. It runs in the precision of the surrounding autocast;
    the distance is computed in float32. Raises UserError for unknown layers and for weights that cannot be loaded.
    """

    def __init__(
        self,
        *,
        backbone: BackboneName = "vgg19",
        layers: Layers | None = None,
        distance: Distance = "l1",
        weights: str = "pretrained",
        style_weight: NonNegative = 0.0,
        checkpointing: bool = False,
        cache: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.backbone = open_backbone(backbone, layers, weights=weights, checkpointing=checkpointing)
        self.distance, self.style_weight = DISTANCES[distance](), style_weight
        self.cache = FeatureCache(self.backbone, megabytes=cache) if cache else None

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = (self.cache or self.backbone)(target)
        got = self.backbone(output)
        with torch.autocast(output.device.type, enabled=False):
            terms = [w * self.judge(got[n].float(), wanted[n].float()) for n, w in self.backbone.layers.items()]
        return torch.stack(terms).sum()

    def judge(self, got: Tensor, wanted: Tensor) -> Tensor:
        """The distance of one layer's features, float32 [B, channels, h, w]."""
        loss: Tensor = self.distance(got, wanted)
        return loss + self.style_weight * self.distance(gram(got), gram(wanted)) if self.style_weight else loss

    def report(self) -> dict[str, float]:
        """`cache_hits`: the share of cached targets since the last report."""
        return {"cache_hits": self.cache.hit_rate()} if self.cache else {}


class Style(Perceptual):
    """sum over layers of weight * distance of the features' Gram matrices (Gatys et al. 2016); else as `Perceptual`.

    To compute both with one pass through the backbone, set `style_weight` of `Perceptual` instead.
    """

    def __init__(
        self,
        *,
        backbone: BackboneName = "vgg19",
        layers: Layers | None = None,
        distance: Distance = "l1",
        weights: str = "pretrained",
        checkpointing: bool = False,
        cache: NonNegativeInt = 0,
    ) -> None:
        super().__init__(
            backbone=backbone,
            layers=layers,
            distance=distance,
            weights=weights,
            checkpointing=checkpointing,
            cache=cache,
        )

    def judge(self, got: Tensor, wanted: Tensor) -> Tensor:
        loss: Tensor = self.distance(gram(got), gram(wanted))
        return loss


class VGG19(Perceptual):
    """`Perceptual` as in ESRGAN and Real-ESRGAN: mean |difference| of VGG19's features before the ReLU.

    layers: names `conv1_1` to `conv5_4` and their weights; the default is Real-ESRGAN's.
    weights: `torchvision` (ImageNet; downloaded once, 548 MB), a file with that state dict, or `random`.
    """

    def __init__(self, *, layers: Layers = REAL_ESRGAN, weights: str = "torchvision") -> None:
        super().__init__(backbone="vgg19", layers=layers, weights=weights)


def gram(features: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, C, C]: G_ij = sum over pixels of F_i F_j / (C h w) (Johnson et al. 2016, equation 3)."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat[0].numel()
