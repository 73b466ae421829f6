"""Classification networks of timm as discriminators."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.core.errors import UserError, first_line, nearest
from sr.nets.layers import Count
from sr.nets.norm import keep_statistics


class TimmDiscriminator(nn.Module):
    """[B, num_in_ch, h, w] in 0..1 -> [logits [B, 1, h', w']]: the last features of a network, then a 1x1 convolution.

    name: any image network in `timm.list_models()`. pretrained: start from ImageNet weights, which timm downloads
    once. For a network with a fixed image size (most vision transformers) images are resized to that size; other
    networks accept any h and w that are not much smaller than their stride, usually 32.
    """

    reads_unit_range = True  # its mean and std are for 0..1; translation tasks pass -1..1 to other discriminators
    mean: Tensor
    std: Tensor

    def __init__(self, *, num_in_ch: Count = 3, name: str, pretrained: bool = False) -> None:
        super().__init__()
        import timm

        if not timm.is_model(name):
            raise UserError(f"timm {timm.__version__} has no model '{name}'.{nearest(name, timm.list_models())}")
        self.features = _backbone(name, num_in_ch, pretrained)
        self.head = nn.Conv2d(self.features.feature_info.channels()[-1], 1, 1)
        known = timm.get_pretrained_cfg(name)
        self.size = known.input_size[-2:] if known and known.fixed_input_size else None
        for key, default in (("mean", (0.5, 0.5, 0.5)), ("std", (0.5, 0.5, 0.5))):
            channels = torch.tensor(getattr(known, key, default)).repeat(-(-num_in_ch // 3))[:num_in_ch]
            self.register_buffer(key, channels[:, None, None], persistent=False)
        keep_statistics(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.size is not None:
            x = F.interpolate(x, size=self.size, mode="bilinear", align_corners=False, antialias=True)
        (features,) = self.features((x - self.mean) / self.std)
        if getattr(self.features, "output_fmt", "NCHW") == "NHWC":
            features = features.permute(0, 3, 1, 2)
        return [self.head(features)]


class ResNetDiscriminator(TimmDiscriminator):
    """`TimmDiscriminator` with a ResNet of `num_layers` layers (He et al. 2016)."""

    def __init__(
        self, *, num_in_ch: Count = 3, num_layers: Literal[18, 34, 50, 101] = 18, pretrained: bool = False
    ) -> None:
        super().__init__(num_in_ch=num_in_ch, name=f"resnet{num_layers}", pretrained=pretrained)


def _backbone(name: str, num_in_ch: int, pretrained: bool) -> Any:
    """Create the network up to its last features, without a classifier, because DDP needs every parameter used."""
    import timm

    try:
        return timm.create_model(name, pretrained, in_chans=num_in_ch, features_only=True, out_indices=(-1,))
    except Exception as error:  # hubs, caches and models without feature maps fail in many ways
        fix = "set pretrained: false, or bring its file into the cache of timm" if pretrained else "choose another"
        raise UserError(f"timm cannot make '{name}' a discriminator ({first_line(error)}); {fix}") from None
