"""Copies between the host and a GPU for which neither waits: through pinned memory, and back on a second stream."""

from functools import cache

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to a device. A copy from pageable memory would make the host wait until the GPU has done all before it."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=device.type == "cuda")


class HostCopy:
    """A tensor on its way to the host, into pinned memory. `wait` returns it."""

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if values.device.type != "cuda":
            self._made = values.cpu()
            return
        self._made = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        stream = _stream(values.device)
        stream.wait_stream(torch.cuda.current_stream(values.device))
        with torch.cuda.stream(stream):
            self._made.copy_(values, non_blocking=True)
        values.record_stream(stream)  # its memory is not given away before the copy is over
        self._event = stream.record_event()

    def wait(self) -> Tensor:
        if self._event is not None:
            self._event.synchronize()
        return self._made


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
