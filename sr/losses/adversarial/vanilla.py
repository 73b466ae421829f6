"""The GAN loss of Goodfellow et al. 2014, with the non-saturating generator (section 3)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sr.losses.adversarial.base import Labelled

Label = Annotated[float, Field(ge=0, le=1)]


class Vanilla(Labelled):
    """Binary cross entropy on logits: `real_label` and `fake_label` for D, `real_label` for G.

    A real label below 1 or a fake label above 0 is label smoothing.
    """

    def __init__(self, *, real_label: Label = 1.0, fake_label: Label = 0.0) -> None:
        self.real_label, self.fake_label = real_label, fake_label

    def distance(self, logits: Tensor, label: float) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
