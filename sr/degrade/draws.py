"""Random numbers of one sample: a pure function of (seed, position), independent of batch, rank and order."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Draw:
    """Random numbers and the target size of one sample.

    Attributes:
        rng: draws parameters on the host, so that no stage synchronizes with the device.
        fields: draws noise images on the device; shared by all samples and reseeded for each image.
        lq_size: (h, w) of the LR image that the stages must produce.
    """

    rng: np.random.Generator
    fields: torch.Generator
    lq_size: tuple[int, int]

    def chance(self, prob: float) -> bool:
        return self.rng.random() < prob

    def uniform(self, bounds: tuple[float, float]) -> float:
        low, high = bounds
        return float(low + (high - low) * self.rng.random())

    def pick(self, items: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """Draw one item, uniformly or in proportion to the weights."""
        if weights is None:
            return items[int(self.rng.integers(len(items)))]
        ends = list(accumulate(weights))  # `rng.choice` does the same in ten times the time
        return items[bisect_right(ends, self.rng.random() * ends[-1])]

    def field(self) -> torch.Generator:
        """Seed and return the generator for the next noise image of this sample."""
        return self.fields.manual_seed(int(self.rng.integers(2**63)))


def draws(
    seed: int, stream: int, positions: Sequence[int], *, lq_size: tuple[int, int], device: torch.device
) -> list[Draw]:
    """Make one `Draw` per sample. `stream` separates different uses of the same position."""
    fields = torch.Generator(device)
    return [Draw(np.random.default_rng([seed, stream, position]), fields, lq_size) for position in positions]


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Copy host values to the device without synchronizing (a copy from pageable memory synchronizes)."""
    if device.type == "cuda" and not values.is_cuda:
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
