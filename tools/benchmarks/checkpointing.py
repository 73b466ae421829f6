"""Memory and time of a training step with and without train.checkpoint_activations, for large networks on a CPU.

    python tools/benchmarks/checkpointing.py
    python tools/benchmarks/checkpointing.py hat_x4 --side 64

Takes the networks from recipes. *saved*: bytes of the tensors that autograd holds at the end of the forward pass,
counted by torch.autograd.graph.saved_tensors_hooks, without weights. With checkpointing, the activations of one block
come on top of it in the backward pass. *weights*, *gradients*, *optimizer*: fp32, with two moments for Adam; ZeRO and
FSDP2 divide these by the number of processes, and leave the activations as they are.
"""

import argparse
import time

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from sr.nets.checkpointed import checkpoint_blocks
from sr.train.builder import Builder, load

HEAD = "| recipe | parameters | weights + gradients + optimizer | saved | saved, checkpointed | CPU s | checkpointed |"


def step(net: nn.Module, side: int) -> tuple[int, float]:
    """Run forward and backward on one image; return the bytes that autograd saves, and CPU seconds."""
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    sizes: dict[int, int] = {}
    kept = []  # a freed tensor's address could be used again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    began = time.process_time()
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = net(torch.rand(1, 3, side, side)).square().mean()
    loss.backward()
    return sum(sizes.values()), time.process_time() - began


def row(name: str, side: int) -> str:
    found = []
    for checkpointed in (False, True):
        net = Builder(load(name)).nets.make("generator").train()
        if checkpointed:
            checkpoint_blocks(net)
        found.append(step(net, side))
    count = sum(parameter.numel() for parameter in net.parameters())
    (plain, seconds), (saved, again) = found
    return (
        f"| {name} | {count / 1e6:.1f} M | {16 * count / 2**20:.0f} MiB | {plain / 2**20:.0f} MiB | "
        f"{saved / 2**20:.0f} MiB | {seconds:.1f} | {again:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=["rrdb_psnr_x4", "swinir_x4", "hat_x4"])
    parser.add_argument("--side", type=int, default=48, help="of the LR image (%(default)s)")
    args = parser.parse_args()
    print(f"one image of {args.side} x {args.side}, fp32\n\n{HEAD}\n|{'---|' * 7}", flush=True)
    for name in args.recipes:
        print(row(name, args.side), flush=True)


if __name__ == "__main__":
    main()
