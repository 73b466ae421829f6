"""Verbs that make images: upscale, translate."""

import argparse

from sr.cli.common import Add, device, how, paths, told, translation, written
from sr.core.errors import UserError


def add(verb: Add) -> None:
    made = verb(upscale, "upscale images and videos: files, folder trees, tars, lists; over all processes of a launch")
    written(made, required=False)
    made.add_argument("--scale", type=int, help="needed for bicubic")
    enlarging(made)
    device(made)
    made = verb(
        translate, "translate images and videos: files, folder trees, tars, lists; over all processes of a launch"
    )
    written(made)
    translation(made)
    made.add_argument("--side-by-side", action="store_true", help="inputs hold a and b; one half is taken")
    made.add_argument("--eval", action="store_true", help="no dropout, and batch norm by its running statistics")
    device(made, tile=0)


def enlarging(made: argparse.ArgumentParser) -> None:
    made.add_argument("--blend", nargs="+", metavar="FILE:SHARE", help="in place of --model: a mean of models")
    made.add_argument("--outscale", type=float, metavar="X", help="how many times larger, as 2.5 (what the model does)")
    made.add_argument("--alpha", choices=("bicubic", "net"), default="bicubic", help="what upscales it (%(default)s)")
    made.add_argument("--tta", action="store_true", help="the mean over 8 flips and rotations; 8 times slower")
    made.add_argument(
        "--precision",
        choices=("auto", "fp32", "tf32", "mixed", "bf16", "fp16"),
        default="auto",
        help="auto: the fastest within 1/255 of fp32",
    )


def upscale(args: argparse.Namespace) -> int:
    from sr.inference.upscale import mix_models, pick_model
    from sr.inference.upscale import upscale as run

    if (args.model is None) == (args.blend is None):
        raise UserError("give either --model FILE or --blend A:0.7 B:0.3, and not both")
    model = mix_models(args.blend, scale=args.scale) if args.blend else pick_model(args.model, scale=args.scale)
    chosen = {name: getattr(args, name) for name in ("outscale", "alpha", "precision", "tta")}
    inputs, output = paths(args)
    return told(run(inputs, output, model, **chosen, **how(args)), args.output)


def translate(args: argparse.Namespace) -> int:
    from sr.inference.translate import pick_translator
    from sr.inference.translate import translate as run

    model, direction = pick_translator(args.model, args.direction)
    if args.eval and hasattr(model.net, "test_time"):
        setattr(model.net, "test_time", "eval")  # noqa: B010  (a property, which nn.Module's types do not know)
    side = direction if args.side_by_side else None
    inputs, output = paths(args)
    return told(run(inputs, output, model, side=side, size=args.size, **how(args)), args.output)
