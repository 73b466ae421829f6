"""The discriminator of Real-ESRGAN (Wang et al. 2021, section 3.3)."""

import torch.nn.functional as F
from torch import Tensor, nn

from sr.nets.layers import Count
from sr.nets.spectral import SpectralConv2d


def _down(in_channels: int, out_channels: int) -> SpectralConv2d:
    return SpectralConv2d(in_channels, out_channels, 4, stride=2, padding=1)


def _same(in_channels: int, out_channels: int) -> SpectralConv2d:
    return SpectralConv2d(in_channels, out_channels, 3, padding=1)


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


class UNetDiscriminatorSN(nn.Module):
    """[B, num_in_ch, h, w] in 0..1 -> [logits [B, 1, h, w]]: one logit per pixel. h and w are at least 8.

    A U-Net with spectral norm on every convolution except the first and the last. Parameter names are those of the
    published Real-ESRGAN discriminators.
    """

    def __init__(self, *, num_in_ch: Count = 3, num_feat: Count = 64, skip_connection: bool = True) -> None:
        super().__init__()
        self.skip_connection = skip_connection
        self.conv0 = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.conv1 = _down(num_feat, num_feat * 2)
        self.conv2 = _down(num_feat * 2, num_feat * 4)
        self.conv3 = _down(num_feat * 4, num_feat * 8)
        self.conv4 = _same(num_feat * 8, num_feat * 4)
        self.conv5 = _same(num_feat * 4, num_feat * 2)
        self.conv6 = _same(num_feat * 2, num_feat)
        self.conv7 = _same(num_feat, num_feat)
        self.conv8 = _same(num_feat, num_feat)
        self.conv9 = nn.Conv2d(num_feat, 1, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x0 = _lrelu(self.conv0(x))
        x1 = _lrelu(self.conv1(x0))
        x2 = _lrelu(self.conv2(x1))
        x = _lrelu(self.conv3(x2))
        for conv, skip in ((self.conv4, x2), (self.conv5, x1), (self.conv6, x0)):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = _lrelu(conv(x))
            x = x + skip if self.skip_connection else x
        return [self.conv9(_lrelu(self.conv8(_lrelu(self.conv7(x)))))]
