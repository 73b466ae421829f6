"""Memory in which a loader's worker hands its batches over."""

import torch
from torch import Tensor

PREFETCH = 4  # batches that a worker makes ahead
SLOTS = PREFETCH + 2


class Slots:
    """Shared memory that is filled again and again: taken anew, it costs many times what filling it does.

    A batch is safe until SLOTS more have been made. The loader asks a worker for one only when the one PREFETCH before
    has come out of it, and `sr.data.loader` copies each as it comes (or the loader does, to pinned memory).
    """

    def __init__(self) -> None:
        self._slots = [torch.empty(0, dtype=torch.uint8)] * SLOTS
        self._turn = 0

    def take(self, size: int) -> Tensor:
        """uint8 [size]."""
        turn, self._turn = self._turn, (self._turn + 1) % SLOTS
        if len(self._slots[turn]) < size:
            shared = torch.UntypedStorage._new_shared(size)
            self._slots[turn] = torch.empty(0, dtype=torch.uint8).set_(shared)
        return self._slots[turn][:size]


class Received:
    """The other side: copies what lies in slots, and keeps them mapped, which costs the same again each time."""

    def __init__(self) -> None:
        self._mapped: dict[int, Tensor] = {}

    def copy(self, batch: Tensor) -> Tensor:
        """In the layout of `batch`."""
        self._mapped.setdefault(batch.untyped_storage().data_ptr(), batch)
        return batch.clone()
