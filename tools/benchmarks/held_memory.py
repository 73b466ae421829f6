"""Measure the memory of a function: the peak of allocations, and the tensors saved for the backward pass."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def peak_bytes(device: torch.device, run: Callable[[], object]) -> int:
    """Return the peak of bytes that `run` allocates through torch; numpy and others are not counted.

    On CUDA the peak is relative to the allocations before, so `run` must not free those first.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profile.export_chrome_trace(str(file))
        events = [e for e in json.loads(file.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    held: dict[int, int] = {}
    now = most = 0
    for args in (event["args"] for event in sorted(events, key=lambda e: (e["ts"], e["args"]["Ev Idx"]))):
        if args["Bytes"] > 0:
            held[args["Addr"]] = args["Bytes"]
            now += args["Bytes"]
            most = max(most, now)
        else:  # memory allocated before this profile is freed too
            now -= held.pop(args["Addr"], 0)
    return most


def kept_bytes(run: Callable[[], object]) -> int:
    """Return the peak of bytes saved for backward passes during `run`: each storage once, without parameters."""
    held = _Held()
    with torch.autograd.graph.saved_tensors_hooks(held.pack, held.unpack):
        run()
    return held.most


class _Held:
    """Counts storages from their first use until the last user is freed."""

    def __init__(self) -> None:
        self.users: dict[int, int] = {}
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> Any:
        if isinstance(tensor, torch.nn.Parameter):
            return tensor
        return _Saved(self, tensor)

    def unpack(self, saved: Any) -> Tensor:
        return saved.tensor if isinstance(saved, _Saved) else saved


class _Saved:
    def __init__(self, held: _Held, tensor: Tensor) -> None:
        self.held, self.tensor = held, tensor.detach()
        storage = tensor.untyped_storage()
        self.place, self.size = storage.data_ptr(), storage.nbytes()
        held.users[self.place] = held.users.get(self.place, 0) + 1
        if held.users[self.place] == 1:
            held.now += self.size
            held.most = max(held.most, held.now)

    def __del__(self) -> None:
        self.held.users[self.place] -= 1
        if self.held.users[self.place] == 0:
            self.held.now -= self.size
