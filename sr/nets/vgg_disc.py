"""The discriminator of SRGAN and ESRGAN (Ledig et al. 2017, figure 4; Wang et al. 2018)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from sr.nets.layers import Count
from sr.nets.norm import keep_statistics


class VGGDiscriminator(nn.Module):
    """[B, num_in_ch, h, w] -> [logits [B, 1, 1, 1]]: one logit per image. h and w are at least 64.

    input_size: sets the depth. 128 downsamples 5 times, 256 downsamples 6 times, down to 4 x 4; for other image sizes
    adaptive average pooling reduces the features to 4 x 4. Parameter names and values are those of basicsr's
    VGGStyleDiscriminator.
    """

    def __init__(self, *, num_in_ch: Count = 3, num_feat: Count = 64, input_size: Literal[128, 256] = 128) -> None:
        super().__init__()
        self.depth = 5 if input_size == 128 else 6
        before = num_in_ch
        for i in range(self.depth):
            width = num_feat * min(2**i, 8)
            self.add_module(f"conv{i}_0", nn.Conv2d(before, width, 3, padding=1, bias=i == 0))
            if i > 0:
                self.add_module(f"bn{i}_0", nn.BatchNorm2d(width))
            self.add_module(f"conv{i}_1", nn.Conv2d(width, width, 4, stride=2, padding=1, bias=False))
            self.add_module(f"bn{i}_1", nn.BatchNorm2d(width))
            before = width
        self.linear1 = nn.Linear(before * 4 * 4, 100)
        self.linear2 = nn.Linear(100, 1)
        keep_statistics(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        for i in range(self.depth):
            x = self.get_submodule(f"conv{i}_0")(x)
            x = _lrelu(self.get_submodule(f"bn{i}_0")(x) if i > 0 else x)
            x = _lrelu(self.get_submodule(f"bn{i}_1")(self.get_submodule(f"conv{i}_1")(x)))
        x = F.adaptive_avg_pool2d(x, 4).flatten(1)
        return [self.linear2(_lrelu(self.linear1(x)))[:, :, None, None]]


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)
