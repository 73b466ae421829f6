"""Generators and discriminators: one file each, one row each."""

from sr.nets.rrdbnet import RRDBNet
from sr.nets.unet_sn import UNetDiscriminatorSN

GENERATORS: dict[str, type] = {"rrdbnet": RRDBNet}
DISCRIMINATORS: dict[str, type] = {"unet_sn": UNetDiscriminatorSN}
