"""The containers of a micro-batch: raw crops from the loader, and the tensors that a task trains on."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class SubBatch:
    """Samples of one source kind inside a micro-batch.

    rows: indices in the micro-batch. positions: global sample positions, the key of every random draw.
    gt: uint8 or uint16 [n, C, H, W], as the source has it. lq: [n, C', H/scale, W/scale], or None where the degradation
    synthesizes it on the device. degraded: lq was synthesized in a loader worker, so that gt may have to be sharpened.
    """

    rows: list[int]
    positions: list[int]
    gt: Tensor
    lq: Tensor | None
    degraded: bool = False


@dataclass(frozen=True)
class RawBatch:
    """A micro-batch of one rank as the loader returns it.

    bad: one line for each sample that was replaced. waited: seconds that the training process waited for it.
    """

    groups: list[SubBatch]
    bad: list[str] = field(default_factory=list)
    waited: float = 0.0


@dataclass(frozen=True)
class Batch:
    """A micro-batch on the device; float32 in 0..1, RGB unless the recipe sets other channels.

    lq: [B, C', h, w]. gt: [B, C, h*scale, w*scale], real for the discriminator.
    target: like gt, the target of the reconstruction losses: sharpened where the recipe asks for it, else gt itself.
    Translation (scale 1): lq is the input and gt the target; with unpaired sets, a and b, which do not correspond.
    """

    lq: Tensor
    gt: Tensor
    target: Tensor
