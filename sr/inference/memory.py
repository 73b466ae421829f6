"""How many input pixels a network may take at once: free memory, and what its activations need per pixel."""

import copy
import os
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from sr.distributed.rng import fork_rng

USED_GPU, USED_CPU = 0.6, 0.5  # share of free memory for activations; libraries, fragments and images need the rest
MOST_CPU = 16 * 2**30  # bytes
LIVE = 2  # activations that are in memory at once, as a multiple of the largest layer's input and output
SIDE = 768  # input pixels, of the image whose activations are counted
SMALL_SIDES = 16, 32  # input pixels, of the images that a small network runs on
SMALL = 2_000_000  # parameters, of a network that runs on them in a fraction of a second
UNKNOWN = 16 * 2**10  # bytes per pixel, for a network that cannot be counted


def pixels_that_fit(net: nn.Module, channels: int, device: torch.device, *, element: int = 4) -> int:
    """Input pixels of one tile for which the free memory suffices. element: bytes of one activation."""
    return max(int(free_bytes(device) / (bytes_per_pixel(net, channels) * element / 4)), 1)


def pixels_that_fit_surely(net: nn.Module, channels: int, device: torch.device, *, element: int = 4) -> int:
    """A lower bound of `pixels_that_fit`, in a fraction of a second for a small network, whose layers are counted on
    two small images; 0 for a large one, and where these do not agree, as with attention over the whole image.

    It spares most images the import of torch's compiler (seconds), which meta tensors need.
    """
    if not 0 < sum(parameter.numel() for parameter in net.parameters()) < SMALL:
        return 0
    with suppress(Exception), torch.no_grad(), fork_rng("memory"):
        small, large = (_largest(copy.deepcopy(net).cpu(), channels, side) / side**2 for side in SMALL_SIDES)
        return int(free_bytes(device) / (large * LIVE * element / 4)) if small == large else 0
    return 0


def free_bytes(device: torch.device) -> float:
    """Memory for activations: a share of what is free now, on a CPU divided by the processes on this machine."""
    if device.type in ("cuda", "xpu"):
        library = torch.cuda if device.type == "cuda" else torch.xpu
        free = library.mem_get_info(device)[0]
        cached = library.memory_reserved(device) - library.memory_allocated(device)
        return USED_GPU * (free + cached)
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # the limit of a container; "max" where there is none
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text())
        free = min(free, max(int((group / "memory.max").read_text()) - used, 0))
    return min(USED_CPU * free, MOST_CPU) / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@torch.no_grad()
def bytes_per_pixel(net: nn.Module, channels: int) -> float:
    """Estimated peak of float32 activations per input pixel. Counts the layers' inputs and outputs; nothing is computed
    where the network has parameters and runs on meta tensors."""
    trials = [(lambda: copy.deepcopy(net).to("meta"), SIDE), (lambda: net, 64)]
    for copied, side in trials if any(True for _ in net.parameters()) else trials[1:]:
        with suppress(Exception):  # networks of other programs fail in many ways, and then fail when they are run
            return _largest(copied(), channels, side) * LIVE / side**2
    return UNKNOWN


def _largest(net: nn.Module, channels: int, side: int) -> int:
    """Bytes of the largest input and output of a layer together, as float32, for an image of side x side."""
    largest = side**2

    def count(module: nn.Module, given: tuple[object, ...], made: object) -> None:
        nonlocal largest
        tensors = [each for each in (*given, made) if isinstance(each, Tensor)]
        largest = max(largest, sum(each.numel() * 4 for each in tensors))

    hooks = [each.register_forward_hook(count) for each in net.modules() if not list(each.children())]
    try:
        parameter = next(net.parameters(), torch.empty(0))
        net(torch.zeros(1, channels, side, side, device=parameter.device, dtype=parameter.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return largest
