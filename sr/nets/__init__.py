"""Generators and discriminators: one file and one table row for each."""

from collections.abc import Callable
from typing import Any

from sr.nets.basicsr_net import basicsr_net
from sr.nets.compact import Compact
from sr.nets.edsr import EDSR
from sr.nets.multiscale import MultiScale
from sr.nets.patchgan import PatchGAN
from sr.nets.rcan import RCAN
from sr.nets.resnet import ResNet
from sr.nets.rrdbnet import RRDBNet
from sr.nets.spandrel_archs import spandrel_arch
from sr.nets.spandrel_net import spandrel_net
from sr.nets.srresnet import SRResNet
from sr.nets.timm_disc import ResNetDiscriminator, TimmDiscriminator
from sr.nets.translation import preset
from sr.nets.unet import UNet
from sr.nets.unet_sn import UNetDiscriminatorSN
from sr.nets.vgg_disc import VGGDiscriminator

GENERATORS: dict[str, Callable[..., Any]] = {
    "rrdbnet": RRDBNet,
    "srresnet": SRResNet,
    "edsr": EDSR,
    "rcan": RCAN,
    "compact": Compact,
    "unet_128": preset(UNet, num_downs=7),
    "unet_256": preset(UNet, num_downs=8),
    "unet": UNet,
    "resnet_6blocks": preset(ResNet, num_block=6),
    "resnet_9blocks": preset(ResNet, num_block=9),
    "resnet": ResNet,
    "basicsr.*": basicsr_net,
    "spandrel": spandrel_net,
    "spandrel.*": spandrel_arch,
}
DISCRIMINATORS: dict[str, type] = {
    "unet_sn": UNetDiscriminatorSN,
    "patchgan": PatchGAN,
    "vgg": VGGDiscriminator,
    "resnet": ResNetDiscriminator,
    "timm": TimmDiscriminator,
    "multiscale": MultiScale,
}
