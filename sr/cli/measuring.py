"""Verbs that judge a model: validate."""

import argparse
import json
import sys

from sr.cli import common
from sr.cli.common import Add


def add(verb: Add) -> None:
    _validate(verb(validate, "measure a model on pairs of images"))


def validate(args: argparse.Namespace) -> int:
    from sr.score import Pictures, lines, pick, score, table

    pictures = Pictures(args.hr, args.lr, args.a, args.b, args.side_by_side, args.size)
    pictures.check()
    model, direction = pick(args.model, scale=args.scale, direction=args.direction)
    device, names = common.pick_device(args.device), ("metrics", "tile", "overlap", "sheet", "rows")
    chosen = {name: getattr(args, name) for name in names}
    results = score(model, pictures, direction=direction, device=device, **chosen)
    for metric, reason in results.left_out.items():
        print(f"{metric} is left out: {reason}", file=sys.stderr)
    if args.json:
        print(json.dumps({"model": args.model, "scale": model.scale, **table(results)}, indent=1, allow_nan=False))
    else:
        print("\n".join(lines(results)))
    return 0


def _validate(made: argparse.ArgumentParser) -> None:
    made.add_argument("--model", required=True, help="a model file, or bicubic")
    made.add_argument("--hr", metavar="DIR", help="what is wanted; for a model of colouring photographs alone")
    made.add_argument("--lr", metavar="DIR", help="left out: made from --hr by MATLAB's bicubic")
    made.add_argument("--a", metavar="DIR", help="of pairs for translation")
    made.add_argument("--b", metavar="DIR")
    made.add_argument("--side-by-side", metavar="DIR", help="files that hold a and b, in place of --a and --b")
    common.translation(made)
    made.add_argument("--scale", type=int, help="needed for bicubic")
    made.add_argument("--metrics", nargs="+", metavar="NAME", help="as psnr_y l1 lpips (those of the trade)")
    made.add_argument("--json", action="store_true")
    made.add_argument("--sheet", metavar="FILE", help="write a contact sheet: input, output, target")
    made.add_argument("--rows", type=common.positive, default=8, help="of the sheet (%(default)s)")
    common.device(made, tile=0)
