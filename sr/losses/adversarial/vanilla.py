"""The GAN loss of Goodfellow et al. 2014, with the non-saturating generator (section 3)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sr.losses.adversarial.base import Labelled

Label = Annotated[float, Field(ge=0, le=1)]


class Vanilla(Labelled):
    """Binary cross entropy on logits: D tells real (`real_label`) from fake (`fake_label`), G aims at `real_label`.

    Labels short of 1 and 0 smooth the targets.
    """

    def __init__(self, *, real_label: Label = 1.0, fake_label: Label = 0.0) -> None:
        self.real_label, self.fake_label = real_label, fake_label

    def distance(self, logits: Tensor, label: float) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
