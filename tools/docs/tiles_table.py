"""Tabulate the receptive field and the deviation of tiled from whole-image upscaling, for networks and model files.

    python tools/docs/tiles_table.py
    python tools/docs/tiles_table.py RealESRGAN_x4plus.pth net_g_best.safetensors --image photo.png

The built-in networks are small and have random weights, scaled so that all layers contribute and the output is not
flat. Prints a Markdown table; deviations are the largest of any sample, in 8-bit steps. `cut`: tiles without overlap.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sr.images import read_rgb
from sr.inference.predictor import Predictor
from sr.inference.receptive_field import probe
from sr.inference.tiling import tiled
from sr.nets import GENERATORS
from sr.nets.io.load import Model, open_model

SMALL = {"num_feat": 8}
NETS: dict[str, dict[str, Any]] = {
    "rrdbnet": {**SMALL, "scale": 4, "num_block": 2, "num_grow_ch": 8},
    "rrdbnet x2": {**SMALL, "scale": 2, "num_block": 2, "num_grow_ch": 8},
    "rrdbnet x1": {**SMALL, "scale": 1, "num_block": 2, "num_grow_ch": 8},
    "srresnet": {**SMALL, "scale": 3, "num_block": 3},
    "edsr": {**SMALL, "scale": 2, "num_block": 4},
    "rcan": {**SMALL, "scale": 2, "num_group": 1, "num_block": 2, "squeeze_factor": 4},
    "compact": {**SMALL, "scale": 4, "num_conv": 4},
    "unet": {**SMALL, "scale": 1, "num_downs": 3, "dropout": False},
    "unet_128": {**SMALL, "scale": 1, "dropout": False},
    "unet_256": {**SMALL, "scale": 1, "dropout": False},
    "resnet": {**SMALL, "scale": 1, "num_block": 1},
    "resnet_6blocks": {**SMALL, "scale": 1},
    "resnet_9blocks": {**SMALL, "scale": 1},
    "basicsr.SwinIR": {
        "scale": 2,
        "embed_dim": 12,
        "depths": [2],
        "num_heads": [2],
        "window_size": 4,
        "upsampler": "pixelshuffledirect",
    },
    "basicsr.EDSR": {"scale": 2, "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 2},
}


def model_of(name: str) -> Model:
    """Return a network of NETS with random weights, the same at every call."""
    torch.manual_seed(0)
    kwargs, kind = NETS[name], name.split()[0]
    made = GENERATORS["basicsr.*"](kind.split(".")[1]) if "." in kind else GENERATORS[kind]
    net = made(**kwargs).eval()
    if kwargs["scale"] > 1:
        for parameter in net.parameters():
            if parameter.ndim == 4:
                nn.init.kaiming_normal_(parameter, nonlinearity="leaky_relu")
        last = [module for module in net.modules() if isinstance(module, nn.Conv2d)][-1]
        with torch.no_grad():
            last.weight.mul_(0.23 / net(probe(64, 3)).std())
    return Model(net, kwargs["scale"], net.multiple, name)


def row(model: Model, image: Tensor, *, tile: int | None) -> list[str]:
    """Return a row of the table for an image [c, h, w]."""
    with torch.no_grad():
        whole = model.net(image[None])[0].clamp(0, 1)
    policy = Predictor(model, tile=tile, say=lambda sentence: None).policy
    field = policy.field.pixels
    if field is None:
        policy = Predictor(model, tile=0, say=lambda sentence: None).policy
    side = tile or max(2 * policy.overlap, -(-(max(image.shape[-2:]) + policy.overlap) // 2))
    made = Predictor(model, tile=side if field is not None else 0, say=lambda sentence: None)([image])[0]
    kind = {"scale": model.scale, "tile": side, "multiple": model.multiple}
    cut = tiled(model.net, image[None], overlap=0, **kind)[0].clamp(0, 1)
    changes = [((each - whole).abs().max() * 255).item() for each in (made, cut)]
    seen = [str(field), str(min(policy.overlap, side // 2))] if field is not None else ["all", "whole image"]
    return [model.name, *seen, *(f"{change:.4f}" if change < 1 else f"{change:.0f}" for change in changes)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="model files (default: the built-in networks)")
    parser.add_argument("--image", help="to compare with (default: a test image of --side x --side / 2)")
    parser.add_argument("--side", type=int, default=288, help="height of the test image (%(default)s)")
    parser.add_argument("--tile", type=int, help="side (default: 96; for files two tiles along the longest side)")
    args = parser.parse_args(argv)
    lines = [["net", "receptive field (pixels)", "overlap", "tiled", "cut"], ["---"] * 5]
    models = map(open_model, args.files) if args.files else map(model_of, NETS)
    tile = args.tile or (None if args.files else 96)
    for model in models:
        image = probe(args.side, model.channels)[0, :, :, : args.side // 2]
        if args.image:
            image = torch.from_numpy(read_rgb(args.image)).permute(2, 0, 1)[: model.channels] / 255
        lines.append(row(model, image, tile=tile))
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
