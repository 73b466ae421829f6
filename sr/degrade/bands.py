"""Separable filters and resizing on a CPU as banded matrices: each output is a weighted sum of nearby inputs.

The matrices are applied as small dense products, which use the vector units of the CPU. The loops of torch do not:
area resizing with them takes 5 to 10 times as long.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 64  # outputs per product: more multiply more zeros, fewer make the matrices too small


class Block(NamedTuple):
    """Outputs [first, last) as weights [last - first, stop - start] of the inputs [start, stop)."""

    first: int
    last: int
    start: int
    stop: int
    weights: Tensor


Band = list[Block]


def band(indices: Tensor, weights: Tensor) -> Band:
    """Build the linear map in blocks from int64 indices and float64 weights, both [n_out, taps].

    Indices may repeat; their weights are added.
    """
    made = []
    for first in range(0, len(indices), BLOCK):
        index, weight = indices[first : first + BLOCK], weights[first : first + BLOCK]
        start, stop = int(index.min()), int(index.max()) + 1
        dense = weight.new_zeros(len(index), stop - start).scatter_add_(1, index - start, weight)
        made.append(Block(first, first + len(index), start, stop, dense.float()))
    return made


def separable(image: Tensor, rows: Band, columns: Band) -> Tensor:
    """Apply `rows` along the height and `columns` along the width: [n, c, h, w] -> [n, c, h', w']."""
    with _exact():
        planes = _across(_down(image.flatten(0, 1).contiguous(), rows), columns)
    return planes.unflatten(0, image.shape[:2])


def _down(planes: Tensor, rows: Band) -> Tensor:
    out = planes.new_empty(len(planes), rows[-1].last, planes.shape[2])
    for block in rows:
        weights = block.weights.to(planes.dtype)
        torch.matmul(weights, planes[:, block.start : block.stop], out=out[:, block.first : block.last])
    return out


def _across(planes: Tensor, columns: Band) -> Tensor:
    out = planes.new_empty(*planes.shape[:2], columns[-1].last)
    lines, made = planes.flatten(0, 1), out.flatten(0, 1)
    for block in columns:
        weights = block.weights.T.to(planes.dtype)
        torch.mm(lines[:, block.start : block.stop], weights, out=made[:, block.first : block.last])
    return out


@contextmanager
def _exact() -> Iterator[None]:
    """Ignore the float32 matmul precision setting, which lets oneDNN compute in bf16."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before
