"""The random numbers of one sample: a pure function of (seed, position), whatever the batch, the rank or the order."""

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
    """What the stages may ask about one sample.

    rng: decides parameters on the host, so that no stage waits for the device.
    fields: draws whole noise images on the device; shared by the samples, seeded anew for each field.
    lq_size: (h, w) that the stages have to end at.
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
        """One of the items, with equal chance or in proportion to the weights."""
        if weights is None:
            return items[int(self.rng.integers(len(items)))]
        ends = list(accumulate(weights))  # `rng.choice` does the same, and takes ten times as long
        return items[bisect_right(ends, self.rng.random() * ends[-1])]

    def field(self) -> torch.Generator:
        """The generator for the sample's next noise image."""
        return self.fields.manual_seed(int(self.rng.integers(2**63)))


def draws(
    seed: int, stream: int, positions: Sequence[int], *, lq_size: tuple[int, int], device: torch.device
) -> list[Draw]:
    """A `Draw` per sample. `stream` keeps the uses of one position apart."""
    fields = torch.Generator(device)
    return [Draw(np.random.default_rng([seed, stream, position]), fields, lq_size) for position in positions]


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Host values to the device without waiting for its queue (a copy from pageable memory would wait)."""
    if device.type == "cuda" and not values.is_cuda:
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
