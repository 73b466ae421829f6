"""Poisson sampling on a CPU: a few ms for a 400 x 400 image, where torch.poisson takes 30 ms.

An image of 8-bit levels has at most 256 rates. For each rate, a table of Walker's alias method (Vose, IEEE TSE 17,
1991) turns 32 random bits into a count; probabilities are exact to 2^-32.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

LEVELS = 256


def counts(levels: Tensor, photons: int, seed: int) -> Tensor:
    """Draw Poisson counts with the rates levels / 255 * photons.

    Args:
        levels: float32, whole numbers in 0..255.
        photons: a power of two, at most 256.
    """
    bits, table = _table(photons)
    raw = np.random.SFC64(seed).random_raw((levels.numel() + 1) // 2)
    words = torch.from_numpy(raw.view(np.int32)[: levels.numel()]).view(levels.shape)
    column = words & (1 << bits) - 1
    place = levels.to(torch.int32).bitwise_left_shift_(bits).bitwise_or_(column)
    entry = table.index_select(0, place.flatten()).view_as(words)
    keeps = (words.bitwise_right_shift_(bits) - (entry >> bits)).bitwise_right_shift_(31)  # all ones where below
    alias = entry.bitwise_and_((1 << bits) - 1)
    return (
        keeps.bitwise_and_(column.bitwise_xor_(alias)).bitwise_xor_(alias).to(torch.float32)
    )  # where() takes 2 ms more


@lru_cache(maxsize=9)
def _table(photons: int) -> tuple[int, Tensor]:
    """Build the alias tables: (bits, int32 [256 * 2^bits]).

    An entry holds the threshold of a count, minus half the range, above the bits of its alias. Takes about 0.1 s, once
    for each of the 9 numbers of photons.
    """
    bits = int(np.ceil(np.log2(photons + 9 * np.sqrt(photons) + 16)))  # the tail beyond has a probability below 2^-40
    share = _probabilities(photons, 1 << bits) * (1 << bits)  # 1 on average
    every = np.arange(LEVELS)
    threshold, alias = np.ones_like(share), np.tile(np.arange(1 << bits), (LEVELS, 1))
    open_ = share.copy()  # not yet assigned; finished counts are at 1
    for _ in range(1 << bits):
        low, high = open_.argmin(1), open_.argmax(1)
        given = open_[every, low]
        poor = given < 1 - 1e-12
        if not poor.any():
            break
        rows, low, high, given = every[poor], low[poor], high[poor], given[poor]
        threshold[rows, low], alias[rows, low] = given, high
        open_[rows, low] = 1.0
        open_[rows, high] -= 1 - given
    half = 1 << 31 - bits
    signed = np.minimum(np.round(threshold * 2 * half), 2 * half - 1).astype(np.int64) - half
    return bits, torch.from_numpy((signed << bits | alias).astype(np.int32).reshape(-1))


def _probabilities(photons: int, counts: int) -> np.ndarray:
    """Probability of every count for every level, float64 [256, counts]."""
    rates = torch.arange(LEVELS, dtype=torch.float64)[:, None] / (LEVELS - 1) * photons
    number = torch.arange(counts, dtype=torch.float64)
    chances = torch.exp(torch.xlogy(number, rates) - rates - torch.lgamma(number + 1)).numpy()
    return np.asarray(chances / chances.sum(1, keepdims=True))
