"""Verbs that measure, compare and export models: validate, report, export."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sr.cli import common
from sr.cli.common import Add


def add(verb: Add) -> None:
    example = "sr validate -m net_g.safetensors --hr Set5"
    _validate(verb(validate, "measure a model on pairs of images", example, result=True, json=True))
    _report(
        verb(
            report,
            "write a page that shows and measures upscaled images side by side",
            "sr report ours/ theirs/ --lr small/ -o report.html",
            json=True,
        )
    )
    _export(
        verb(
            export,
            "export a model for other programs: ONNX, ncnn, .pth, .safetensors",
            "sr export net_g.safetensors -o net_g.onnx",
        )
    )


def validate(args: argparse.Namespace) -> int:
    from sr.evaluate.api import evaluate
    from sr.evaluate.validate.table import lines, table, write_csv

    names = "hr lr outputs sets a b side_by_side size scale direction metrics device tile overlap sheet rows"
    results = evaluate(args.model, **{name: getattr(args, name) for name in names.split()})
    if os.environ.get("RANK", "0") != "0":
        return 0
    _print_omitted(results.left_out)
    if args.csv:
        write_csv(args.csv, results)
    if args.json:
        about = {"outputs": args.outputs} if args.outputs else {"model": args.model}
        common.print_json({**about, "scale": results.scale, **table(results)})
    else:
        print("\n".join(lines(results)))
    return 0


def _print_omitted(metrics: Mapping[str, str]) -> None:
    for metric, reason in metrics.items():
        print(f"{metric} is omitted: {reason}", file=sys.stderr)


def report(args: argparse.Namespace) -> int:
    from sr.evaluate.score import known
    from sr.inference.device import pick_device
    from sr.inference.upscale import pick_model
    from sr.report import make_report

    models = [(Path(name).stem, pick_model(name, scale=args.scale)) for name in args.model]
    names = ("hr", "lr", "scale", "embed", "tile", "overlap")
    chosen = {name: getattr(args, name) for name in names} | {"device": pick_device(args.device)}
    metrics = args.metrics and known(args.metrics, upscales=True)
    made = make_report(args.folder, Path(args.output), models=models, metrics=metrics, **chosen)
    if args.json:
        values = {"page": args.output, "images": made.images, "failed": common.json_of(made.failed)}
        common.print_json({**values, "omitted": dict(made.left_out)})
        return 1 if made.failed else 0
    _print_omitted(made.left_out)
    folder = f" and {made.folder}" if made.folder else ""
    print(f"{made.images} image(s) in {args.output}{folder}")
    common.list_failures(made.failed, "image(s) left out")
    return 1 if made.failed else 0


def export(args: argparse.Namespace) -> int:
    from sr.inference.export import export as run

    names = ("scale", "direction", "layout", "opset", "half")
    print(run(args.model, Path(args.output), **{name: getattr(args, name) for name in names}))
    return 0


def _validate(parser: argparse.ArgumentParser) -> None:
    folders: dict[str, Any] = {"action": "append", "default": [], "type": common.path, "metavar": "DIR"}
    add = parser.add_argument
    add("-m", "--model", type=common.path, metavar="FILE", help="model file, or bicubic")
    add("--hr", **folders, help="ground truth, once for each set")
    add("--lr", **folders, help="LR images of each --hr (default: MATLAB's bicubic of it)")
    add("--outputs", **folders, help="images that are already upscaled, for each --hr, in place of --model")
    add("--sets", **folders, help="a folder of published sets, or one of them such as Set5, in place of --hr")
    add("--a", type=common.path, metavar="DIR", help="side a of pairs for translation")
    add("--b", type=common.path, metavar="DIR", help="side b of pairs for translation")
    add("--side-by-side", type=common.path, metavar="DIR", help="images that hold a and b, in place of --a and --b")
    common.add_direction(parser)
    add("--scale", type=common.scale, metavar="N", help="required for bicubic and --outputs")
    add("--metrics", nargs="+", metavar="NAME", help="e.g. psnr_y l1 lpips (default: the usual ones of the task)")
    add("--csv", type=common.path, metavar="FILE", help="write a row for each image")
    add("--sheet", type=common.path, metavar="FILE", help="write a contact sheet: input, output, ground truth")
    add("--rows", type=common.whole(1), default=8, metavar="N", help="rows of the sheet (%(default)s)")
    common.add_device(parser, tile=0)


def _report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", nargs="*", type=common.path, help="upscaled images of one method")
    add("-o", "--output", required=True, type=common.path, metavar="FILE", help="the page (.html)")
    add("--lr", type=common.path, metavar="DIR", help="the LR images; bicubic of them is added to the page")
    add("--hr", type=common.path, metavar="DIR", help="ground truth to measure against")
    add(
        "-m",
        "--model",
        action="append",
        default=[],
        type=common.path,
        metavar="FILE",
        help="upscale --lr with this model",
    )
    add("--scale", type=common.scale, metavar="N", help="scale of the outputs (default: from the sizes of --lr)")
    add("--metrics", nargs="+", metavar="NAME", help="the first orders the page (psnr_y ssim_y lpips dists)")
    add(
        "--embed",
        type=common.size,
        default=20,
        metavar="MB",
        help="embed images up to this size in total, else store them alongside (%(default)s)",
    )
    common.add_device(parser)


def _export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=common.path, help="model file")
    add("-o", "--output", required=True, type=common.path, metavar="FILE", help=".onnx, .param, .pth or .safetensors")
    add("--direction", choices=("a_to_b", "b_to_a"), help="which generator of a CycleGAN (a_to_b)")
    add("--scale", type=common.scale, metavar="N", help="required for published x3 models")
    add("--layout", choices=("published", "old-esrgan"), default="published", help="names of the weights (%(default)s)")
    add("--opset", type=common.whole(11), default=17, metavar="N", help="of ONNX (%(default)s)")
    add("--half", action="store_true", help="ONNX or ncnn in float16")
