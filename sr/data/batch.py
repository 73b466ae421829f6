"""What travels between the rooms: raw crops from the loader, and the pair that a task trains on."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class SubBatch:
    """Samples of one source kind inside a micro-batch.

    rows: their places in the micro-batch. positions: their global sample positions, the key of every random draw.
    gt: uint8 [n, C, H, W]. lq: uint8 [n, C', H/scale, W/scale], or None where the degradation has yet to make it.
    """

    rows: list[int]
    positions: list[int]
    gt: Tensor
    lq: Tensor | None


@dataclass(frozen=True)
class RawBatch:
    """One rank's micro-batch as the loader hands it over; `bad` names the samples that had to be replaced."""

    groups: list[SubBatch]
    bad: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the device; all float in 0..1, RGB unless the recipe has other channels.

    lq: [B, C', h, w]. gt: [B, C, h*scale, w*scale], what the discriminator sees as real.
    target: like gt, what the reconstruction losses compare with: sharpened where the recipe asks for it, else gt
    itself.
    Translation, at scale 1: lq is the image given, gt the one wanted; of unpaired sets a and b, each for itself.
    """

    lq: Tensor
    gt: Tensor
    target: Tensor
