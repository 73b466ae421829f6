"""Convolutions of a training step on a CPU: torch against sr.nets.cpu.winograd, layer by layer.

Forward, gradient of the input and gradient of the kernel, in float32 and channels_last, with the layers of RRDBNet
64/23 and the U-Net discriminator. The share of the peak counts the operations of direct convolution for both, so it can
exceed 100 %. Deviation: between the two.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from bench_harness import Arm, Row, compare

LAYERS = {  # in, out, side: stride 1, 3 x 3
    "first of a dense block": (64, 32, 64),
    "last of a dense block": (192, 64, 64),
    "at full size": (64, 64, 256),
    "middle of the discriminator": (256, 128, 128),
    "VGG": (512, 512, 32),
}
AGAIN = 10  # calls per measurement, because one would be too short


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=2, help="images per batch (%(default)s)")
    parser.add_argument("--layers", nargs="+", choices=list(LAYERS), default=list(LAYERS))


def run(args: argparse.Namespace) -> list[Row]:
    from sr.core.errors import UserError
    from sr.nets.cpu import winograd

    if args.device.type != "cpu" or not winograd.available():
        raise UserError(
            "conv needs a CPU and the compiled convolutions; set --device cpu, install gcc and reinstall sr"
        )
    rows = []
    for name in args.layers:
        rows += _layer(name, *LAYERS[name], args)
    return rows


def _layer(name: str, inside: int, out: int, side: int, args: argparse.Namespace) -> list[Row]:
    import torch
    import torch.nn.functional as F

    from sr.nets.cpu import winograd

    torch.manual_seed(0)
    shapes = (args.batch, inside, side, side), (out, inside, 3, 3), (args.batch, out, side, side)
    x, weight, gradient = (torch.randn(shape).contiguous(memory_format=torch.channels_last) for shape in shapes)

    def theirs(to_x: bool) -> Any:
        ones, zeros, mask = [1, 1], [0, 0], (to_x, not to_x, False)
        made = torch.ops.aten.convolution_backward(gradient, x, weight, None, ones, ones, ones, False, zeros, 1, mask)
        return made[not to_x]

    works: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "forward": (lambda: F.conv2d(x, weight, padding=1), lambda: winograd.conv(x, weight)),
        "to the input": (partial(theirs, True), lambda: winograd.conv(gradient, weight, transposed=True)),
        "to the kernel": (partial(theirs, False), lambda: winograd.kernel_gradient(x, gradient, weight)),
    }
    rows = []
    for work, ways in works.items():
        facts: dict[str, Any] = {"operations": AGAIN * 18.0 * x.numel() * out, "items": AGAIN * args.batch}
        arms = [Arm(arm, partial(_again, way), way, **facts) for arm, way in zip(("torch", "ours"), ways, strict=True)]
        title = f"{name}, {inside} -> {out} at {side}: {work}"
        rows += compare(title, arms, rounds=args.pairs, device=args.device, memory=False)
    return rows


def _again(way: Callable[[], Any]) -> None:
    for _ in range(AGAIN):
        way()
