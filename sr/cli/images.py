"""Verbs that make images: upscale, translate."""

import argparse
import os
import sys

from sr.cli import common
from sr.cli.common import Add
from sr.core.errors import UserError
from sr.core.progress import is_quiet
from sr.inference.zoo import DEFAULT


def add(verb: Add) -> None:
    _upscale(verb(upscale, "upscale images and videos", "sr upscale photos/ -o large/ -m RealESRGAN_x4plus", json=True))
    _translate(
        verb(
            translate, "translate images and videos", "sr translate labels/ -o photos/ -m net_g.safetensors", json=True
        )
    )


def _upscale(parser: argparse.ArgumentParser) -> None:
    common.add_conversion(parser, model=DEFAULT, output="upscaled/")
    add = parser.add_argument
    add("--scale", type=common.scale, metavar="N", help="scale of the model; required for bicubic")
    add(
        "--blend",
        nargs="+",
        type=common.path,
        metavar="FILE:SHARE",
        help="weighted mean of models, in place of --model",
    )
    add("-s", "--outscale", type=float, metavar="X", help="scale of the output, e.g. 2.5 (default: that of the model)")
    add("--alpha", choices=("bicubic", "net"), default="bicubic", help="alpha upsampling method (%(default)s)")
    add("--tta", action="store_true", help="average over 8 flips and rotations; 8 times slower")
    add(
        "--precision",
        choices=("auto", "fp32", "tf32", "mixed", "bf16", "fp16"),
        default="auto",
        help="auto: the fastest one within 1/255 of fp32 (default)",
    )
    add("--fp32", dest="precision", action="store_const", const="fp32", help="the same as --precision fp32")
    add(
        "--plugins",
        nargs="+",
        type=common.path,
        default=[],
        metavar="NAME",
        help="Python files, modules or classes of your own that may be imported to build the model",
    )
    common.add_device(parser)


def upscale(args: argparse.Namespace) -> int:
    from sr.inference.upscale import mix_models, pick_model
    from sr.inference.upscale import upscale as run

    if args.model and args.blend:
        raise UserError("give either --model FILE or --blend A:0.7 B:0.3, and not both")
    if not (args.model or args.blend or is_quiet()) and os.environ.get("RANK", "0") == "0":
        print(f"sr: using {DEFAULT}, the default; choose another model with -m, see `sr models`", file=sys.stderr)
    model = (
        mix_models(args.blend, scale=args.scale)
        if args.blend
        else pick_model(args.model, scale=args.scale, plugins=args.plugins)
    )
    chosen = {name: getattr(args, name) for name in ("outscale", "alpha", "precision", "tta")}
    return common.print_report(run(model=model, **chosen, **common.conversion(args)), args)


def _translate(parser: argparse.ArgumentParser) -> None:
    common.add_conversion(parser)
    common.add_direction(parser)
    parser.add_argument("--side-by-side", action="store_true", help="inputs hold a and b; one half is the input")
    parser.add_argument("--eval", action="store_true", help="no dropout; batch norm uses its running statistics")
    common.add_device(parser, tile=0)


def translate(args: argparse.Namespace) -> int:
    from sr.inference.translate import pick_translator
    from sr.inference.translate import translate as run

    model, direction = pick_translator(args.model, args.direction)
    if args.eval and hasattr(model.net, "test_time"):
        setattr(model.net, "test_time", "eval")  # noqa: B010  (a property, which nn.Module's types do not know)
    side = direction if args.side_by_side else None
    return common.print_report(run(model=model, side=side, size=args.size, **common.conversion(args)), args)
