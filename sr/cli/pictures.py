"""Verbs that make pictures: upscale, translate."""

import argparse
from pathlib import Path

from sr.cli.common import Add, device, how, told, translation, written


def add(verb: Add) -> None:
    made = verb(upscale, "enlarge an image or a folder tree of images")
    written(made)
    made.add_argument("--scale", type=int, help="needed for bicubic")
    device(made, tile=256)
    made = verb(translate, "translate an image or a folder tree of images")
    written(made)
    translation(made)
    made.add_argument("--side-by-side", action="store_true", help="inputs hold a and b; one half is taken")
    made.add_argument("--eval", action="store_true", help="no dropout, and batch norm by its running statistics")
    device(made, tile=0)


def upscale(args: argparse.Namespace) -> int:
    from sr.upscale import pick_model
    from sr.upscale import upscale as run

    model = pick_model(args.model, scale=args.scale)
    return told(run([Path(given) for given in args.input], Path(args.output), model, **how(args)), args.output)


def translate(args: argparse.Namespace) -> int:
    from sr.translate import pick_translator
    from sr.translate import translate as run

    model, direction = pick_translator(args.model, args.direction)
    if args.eval and hasattr(model.net, "test_time"):
        setattr(model.net, "test_time", "eval")  # noqa: B010  (a property, which nn.Module's types do not know)
    side, inputs = direction if args.side_by_side else None, [Path(given) for given in args.input]
    return told(run(inputs, Path(args.output), model, side=side, size=args.size, **how(args)), args.output)
