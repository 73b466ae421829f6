"""Losses: one file each, one row each. Weights and schedules are the caller's.

A fidelity loss is a module called with (output, target), both [B, 3, h, w] in 0..1; it returns a float32 scalar.
An adversarial loss has `generator` and `discriminator`, called with (critic, real=..., fake=...), both [B, 3, h, w];
they return float32 scalars by name.
"""

from sr.losses.adversarial.vanilla import Vanilla
from sr.losses.perceptual import VGG19
from sr.losses.pixel import L1

FIDELITY: dict[str, type] = {"l1": L1, "vgg19": VGG19}
ADVERSARIAL: dict[str, type] = {"vanilla": Vanilla}
GAN_TERMS: dict[str, type] = {}
