"""Upscaling a folder with an RRDBNet x4: ours against Real-ESRGAN's own program.

The reference reimplements the documented behaviour of `RealESRGANer` on basicsr's RRDBNet with the same weights: 10
mirrored pixels at the right and bottom, tiles with a margin of 10 pixels, the whole image and output on the device,
fp16 on CUDA (its default) and fp32 on a CPU. Weights are random, scaled so that all dense blocks contribute and the
output has the mean and deviation of an image; --weights takes a published file.

folder: files in, files out. image: one image in memory, which shows the deviation before rounding to 8 bits; here the
reference uses fp32 on CUDA too. The comparison excludes the 16 pixels at the right and bottom that the mirrored margin
changes. file: write one result as a PNG (the reference by OpenCV), with the size of the file.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench_harness import Arm, Row, compare

ARMS = {
    "ours, default": {"precision": "auto"},
    "ours, fp32": {"precision": "fp32"},
    "ours, mixed": {"precision": "mixed"},  # the default if bf16 is fast
    "ours, bf16": {"precision": "bf16"},
    "ours, fp16": {"precision": "fp16"},
}
WORK = ["folder", "image", "file"]
DTYPES = {"ours, mixed": "bf16", "ours, bf16": "bf16", "ours, fp16": "fp16"}  # for the share of the peak of torch.mm


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-feat", type=int, default=64)
    parser.add_argument("--num-block", type=int, default=23)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights of an RRDBNet x4 (random)")
    parser.add_argument("--size", type=int, nargs=2, default=(200, 320), metavar=("H", "W"), help="size of an image")
    parser.add_argument("--images", type=int, default=1, help="images in the folder (%(default)s)")
    parser.add_argument("--tile", type=int, help="tile size of both (reference: whole image; ours: automatic)")
    parser.add_argument(
        "--arms", nargs="+", choices=list(ARMS), default=["ours, default"], help="arms besides the reference"
    )
    parser.add_argument("--work", nargs="+", choices=WORK, default=WORK)


def run(args: argparse.Namespace) -> list[Row]:
    from sr.core.allocator import keep_memory
    from sr.images import list_images, read_rgb, write_rgb
    from sr.inference.receptive_field import probe

    if args.device.type == "cpu":  # as the program does; both sides benefit
        keep_memory()
    ours, theirs = _models(args)
    height, width = args.size
    operations = args.images * height * width * _operations(theirs)
    shared = {"operations": operations, "items": args.images}
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "in")
        folder.mkdir()
        for number in range(args.images):
            image = probe(max(args.size) + number, 3)[0, :, :height, :width]
            write_rgb(folder / f"{number}.png", (image.permute(1, 2, 0) * 255).round().byte().numpy())
        files = list_images(folder)
        if "folder" in args.work:
            out = Path(scratch, "out")
            half = args.device.type == "cuda"
            works = [("Real-ESRGAN", "fp32", lambda: _their_folder(theirs, files, out, args, half))]
            works += [(name, dtype, lambda run=run: run(folder, out)) for name, dtype, run in _folders(ours, args)]
            arms = [Arm(n, run, lambda run=run: (run(), _written(out))[1], dtype=d, **shared) for n, d, run in works]
            rows += compare(f"folder of {args.images}", arms, rounds=args.pairs, device=args.device, memory=False)
        if "image" in args.work:
            pixels = read_rgb(files[0])
            shared["operations"], shared["items"] = operations / args.images, 1
            reference = "Real-ESRGAN, fp32"
            arms = [Arm(reference, lambda: _inner(_theirs(theirs, pixels, args, half=False)), **shared)]
            arms += [Arm(n, lambda r=r: _inner(r(pixels)), dtype=d, **shared) for n, d, r in _images(ours, args)]
            rows += compare("image", arms, rounds=args.pairs, device=args.device, memory=args.memory)
        if "file" in args.work:
            rows += _file(Path(scratch), args)
    return rows


def _file(scratch: Path, args: argparse.Namespace) -> list[Row]:
    import cv2

    from sr.images import write_rgb
    from sr.inference.receptive_field import probe

    height, width = (4 * side for side in args.size)
    made = (probe(max(height, width), 3)[0, :, :height, :width].permute(1, 2, 0) * 255).round().byte().numpy()
    files = scratch / "theirs.png", scratch / "ours.png"

    def theirs() -> None:
        cv2.imwrite(str(files[0]), cv2.cvtColor(made, cv2.COLOR_RGB2BGR))

    def ours() -> None:
        write_rgb(files[1], made)

    arms = [Arm("Real-ESRGAN", theirs), Arm("ours", ours)]
    for arm, file in zip(arms, files, strict=True):
        arm.run()
        arm.note = f"{file.stat().st_size / 1000:.0f} kB"
    return compare("file", arms, rounds=args.pairs, device=args.device, memory=False)


def _models(args: argparse.Namespace) -> tuple[Any, Any]:
    """Return our model and basicsr's network with the same weights."""
    import torch

    from sr.inference.receptive_field import probe
    from sr.nets.io.basicsr import basicsr
    from sr.nets.io.load import Model, open_model
    from sr.nets.rrdbnet import RRDBNet

    if args.weights:
        ours = open_model(args.weights, expect_scale=4)
    else:
        torch.manual_seed(0)
        net = RRDBNet(scale=4, num_feat=args.num_feat, num_block=args.num_block).eval()
        with torch.no_grad():
            net.conv_last.weight.mul_(0.23 / net(probe(48, 3)).std())
            net.conv_last.bias.add_(0.5 - net(probe(48, 3)).mean())
        ours = Model(net, 4, 1, "RRDBNet x4")
    state = ours.net.state_dict()
    sizes = {"num_feat": state["conv_first.weight"].shape[0], "num_grow_ch": state["body.0.rdb1.conv1.weight"].shape[0]}
    count = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("body."))
    theirs = basicsr("archs.rrdbnet_arch").RRDBNet(3, 3, scale=4, num_block=count, **sizes).eval()
    theirs.load_state_dict(state)
    return ours, theirs.to(args.device)


def _operations(net: Any) -> float:
    """Return the floating point operations per input pixel."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 16, 16, device=next(net.parameters()).device))
    return counter.get_total_flops() / 16**2


# ---- the reference ---------------------------------------------------------------------------------------------------


def _theirs(net: Any, pixels: Any, args: argparse.Namespace, *, half: bool) -> Any:
    """uint8 [h, w, 3] -> float [3, 4h, 4w] in 0..1 on the host."""
    import torch
    import torch.nn.functional as F

    net, kind = (net.half(), torch.float16) if half else (net.float(), torch.float32)
    image = torch.from_numpy(pixels.astype("float32") / 255).permute(2, 0, 1)[None].to(args.device, kind)
    image = F.pad(image, (0, 10, 0, 10), mode="reflect")
    with torch.no_grad():
        made = _their_tiles(net, image, args.tile) if args.tile else net(image)
    return made[0, :, :-40, :-40].float().cpu().clamp(0, 1)


def _their_tiles(net: Any, image: Any, tile: int) -> Any:
    height, width = image.shape[-2:]
    whole = image.new_zeros(1, 3, 4 * height, 4 * width)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            above, before = max(top - 10, 0), max(left - 10, 0)
            made = net(image[..., above : bottom + 10, before : right + 10])
            rows = slice(4 * (top - above), 4 * (bottom - above))
            columns = slice(4 * (left - before), 4 * (right - before))
            whole[..., 4 * top : 4 * bottom, 4 * left : 4 * right] = made[..., rows, columns]
    return whole


def _their_folder(net: Any, files: list[Path], out: Path, args: argparse.Namespace, half: bool) -> None:
    """Read, upscale and write one file after the other."""
    import cv2

    out.mkdir(exist_ok=True)
    for file in files:
        pixels = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        made = (_theirs(net, pixels, args, half=half).permute(1, 2, 0) * 255).round().byte().numpy()
        cv2.imwrite(str(out / file.name), cv2.cvtColor(made, cv2.COLOR_RGB2BGR))


def _written(out: Path) -> Any:
    import torch

    from sr.images import list_images, read_rgb

    images = [torch.tensor(read_rgb(file)).permute(2, 0, 1).float() / 255 for file in list_images(out)]
    return torch.cat([_inner(image).flatten() for image in images])


def _inner(image: Any) -> Any:
    """Remove the pixels at the right and bottom that the mirrored margin changes."""
    return image[:, :-64, :-64]


# ---- ours ------------------------------------------------------------------------------------------------------------


def _folders(model: Any, args: argparse.Namespace) -> Iterator[tuple[str, str, Any]]:
    """Yield (name, dtype, function) per arm, as the program does it: the receptive field is measured in every run."""
    from sr.inference.upscale import upscale

    for name in args.arms:

        def work(folder: Path, out: Path, how: Any = ARMS[name]) -> None:
            report = upscale([folder], out, model, again=True, tile=args.tile, device=args.device, **how)
            assert len(report.written) == args.images, report.failed

        yield name, DTYPES.get(name, "fp32"), work


def _images(model: Any, args: argparse.Namespace) -> Iterator[tuple[str, str, Any]]:
    """Yield (name, dtype, function) per arm, with the model already analyzed."""
    import torch

    from sr.inference.predictor import Predictor

    for name in args.arms:
        inference = Predictor(model, tile=args.tile, device=args.device, **ARMS[name])  # type: ignore[arg-type]

        def work(pixels: Any, inference: Any = inference) -> Any:
            return inference([torch.from_numpy(pixels.astype("float32") / 255).permute(2, 0, 1)])[0]

        yield name, DTYPES.get(name, "fp32"), work
