"""Check that all ranks hold the same weights: diverged ranks train different models without any other symptom."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sr.core.errors import UserError
from sr.distributed import comm
from sr.train.ema import EMA
from sr.train.model_optimizer import ModelOptimizer

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_ranks(players: Mapping[str, ModelOptimizer], ema: EMA, *, step: int, every: int) -> None:
    """Compare replicated parameters and averages every `every` steps (0: never). Raises UserError on all ranks.
    Collective.

    Sharded tensors (ZeRO-3, FSDP2) have no replicas. Buffers are not compared: running statistics differ between ranks.
    """
    if every and step % every == 0:
        held = {name: player.backend for name, player in players.items()}
        tensors = {
            f"{name}.{key}": value for name, b in held.items() if not b.sharded for key, value in b.owned().items()
        }
        if not ema.sharded:
            tensors |= {f"average.{key}": value for key, value in ema.parts.items()}
        compare(tensors, step=step)


def compare(tensors: Mapping[str, Tensor], *, step: int) -> None:
    """Raise UserError on every rank, naming the first of `tensors` that differs between ranks. Collective.

    Costs one pass over the tensors, one device sync and a message of a few bytes.
    """
    if comm.world() == 1 or not tensors:
        return
    sums = torch.stack([_bits(tensor) for tensor in tensors.values()]).tolist()
    if len(set(comm.gather(hash(tuple(sums))))) == 1:
        return
    ranks = comm.gather(sums)
    for name, seen in zip(tensors, zip(*ranks, strict=True), strict=True):
        others = [rank for rank, value in enumerate(seen) if value != seen[0]]
        if others:
            raise UserError(
                f"step {step}: {name} on rank {', '.join(map(str, others))} differs from rank 0; run the same "
                "command to resume from the last checkpoint, and if it happens again, leave out those ranks' machines"
            )


def _bits(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor's bits read as integers: one different bit changes it."""
    return tensor.detach().view(WORDS[tensor.element_size()]).sum(dtype=torch.int64)
