"""Memory and time of a training step with and without train.checkpoint_activations, for large networks on a CPU.

    python tools/benchmarks/checkpointing.py
    python tools/benchmarks/checkpointing.py hat_x4 --side 64

    python tools/benchmarks/checkpointing.py --all          # no step: what memory consists of, for all of spandrel

*saved*: bytes of the tensors that autograd holds at the end of the forward pass of one image, without weights, counted
on fake tensors. *peak*: resident memory of a step, forward and backward on real tensors in a process of its own, above
that before the step. *state*: weights, gradients and two moments for Adam in fp32; ZeRO and FSDP2 divide it by the
number of processes, and leave the activations as they are.
"""

import argparse
import contextlib
import multiprocessing
import resource
import time
import warnings
from typing import Any

import psutil
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from sr.core.errors import UserError, first_line
from sr.nets.checkpointed import checkpoint_blocks
from sr.nets.spandrel_archs import ARCHITECTURES, spandrel_arch
from sr.train.builder import Builder, load

MIB = 2**20
HEAD = (
    "| recipe | parameters | state | saved | saved, checkpointed | peak | peak, checkpointed | CPU s | checkpointed |"
)
ALL = "| type | parameters | state | saved by one image | state, of both |"


def make(name: str) -> nn.Module:
    """Return the generator of a recipe, or an architecture of spandrel with its defaults."""
    if not name.startswith("spandrel."):
        return Builder(load(name)).nets.make("generator").train()
    architecture = name.removeprefix("spandrel.")
    sizes = {"dim": 36} if architecture.startswith("SAFMN") else {}  # which has no default
    for scale in (4, 3, 2, 1):
        with contextlib.suppress(UserError, RuntimeError):
            return spandrel_arch(architecture)(scale=scale, **sizes).train()
    raise UserError(f"{name} cannot be made")


def saved(net: nn.Module, side: int) -> int:
    """Return the bytes that autograd saves in a forward pass of one image."""
    sizes: dict[int, int] = {}
    kept: list[Any] = []  # the identity of a freed storage could be used again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter) and storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in net.modules():
            for key, parameter in list(module._parameters.items()):
                module._parameters[key] = None if parameter is None else nn.Parameter(mode.from_tensor(parameter.data))
            for key, buffer in list(module._buffers.items()):
                module._buffers[key] = None if buffer is None else mode.from_tensor(buffer)
        own = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            net(torch.rand(2, 3, side, side))  # some normalize over more than one
    return sum(sizes.values()) // 2


def step(name: str, side: int, checkpointed: bool, send: Any) -> None:
    """Run forward and backward of one image; send the peak memory in bytes and CPU seconds."""
    net = make(name)
    if checkpointed:
        checkpoint_blocks(net)
    before, began = psutil.Process().memory_info().rss, time.process_time()
    net(torch.rand(1, 3, side, side)).square().mean().backward()
    send.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, time.process_time() - began))


def measured(name: str, side: int, checkpointed: bool) -> tuple[int, float]:
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=step, args=(name, side, checkpointed, send))
    process.start()
    result: tuple[int, float] = receive.recv()
    process.join()
    return result


def row(name: str, side: int) -> str:
    count, held, peaks = 0, [], []
    for checkpointed in (False, True):
        net = make(name)
        count = sum(parameter.numel() for parameter in net.parameters())
        if checkpointed:
            checkpoint_blocks(net)
        held.append(saved(net, side))
        peaks.append(measured(name, side, checkpointed))
    cells = [16 * count, *held, *(peak for peak, _ in peaks)]
    shown = " | ".join(f"{value / MIB:.0f} MiB" for value in cells)
    return f"| {name} | {count / 1e6:.1f} M | {shown} | {peaks[0][1]:.1f} | {peaks[1][1]:.1f} |"


def composition(name: str, side: int) -> str:
    """Return a row about the state and the activations of one image."""
    try:
        net = make(name)
        count = sum(parameter.numel() for parameter in net.parameters())
        activations = saved(net, side)
    except Exception as error:  # some networks do not run on fake tensors
        return f"| `{name}` | not measured: {first_line(error)[:60]} | | | |"
    state = 16 * count
    shown = f"{state / MIB:.0f} MiB | {activations / MIB:.0f} MiB | {state / (state + activations):.0%}"
    return f"| `{name}` | {count / 1e6:.1f} M | {shown} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=["rrdb_psnr_x4", "swinir_x4", "hat_x4"])
    parser.add_argument("--side", type=int, default=48, help="of the LR image (%(default)s)")
    parser.add_argument("--all", action="store_true", help="state and activations of every architecture of spandrel")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # about fake tensors
    head, make_row = (ALL, composition) if args.all else (HEAD, row)
    print(f"one image of {args.side} x {args.side}, fp32\n\n{head}\n|{'---|' * (head.count('|') - 1)}", flush=True)
    for name in [f"spandrel.{name}" for name in ARCHITECTURES] if args.all else args.recipes:
        print(make_row(name, args.side), flush=True)


if __name__ == "__main__":
    main()
