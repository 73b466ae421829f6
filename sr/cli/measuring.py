"""Verbs that judge a model and hand it on: validate, report, export."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sr.cli import common
from sr.cli.common import Add
from sr.core.errors import UserError


def add(verb: Add) -> None:
    _validate(verb(validate, "measure a model on pairs of images"))
    _report(verb(report, "write a page that shows and measures upscaled images side by side"))
    _export(verb(export, "write a model for other programs: ONNX, .pth, safetensors"))


def validate(args: argparse.Namespace) -> int:
    from sr.distributed.comm import is_main
    from sr.evaluate import score
    from sr.evaluate.validate.table import lines, table, write_csv

    names = ("hr", "lr", "outputs", "sets", "a", "b", "side_by_side", "size")
    images = score.Images(**{name: getattr(args, name) for name in names})
    images.check()
    score.join()
    results, told = _outputs(args, images) if args.outputs else _model(args, images)
    if is_main():
        _left_out(results.left_out)
        if args.csv:
            write_csv(args.csv, results)
        made = told | table(results)
        print(json.dumps(made, indent=1, allow_nan=False) if args.json else "\n".join(lines(results)))
    score.shutdown()
    return 0


def _left_out(metrics: Mapping[str, str]) -> None:
    for metric, reason in metrics.items():
        print(f"{metric} is left out: {reason}", file=sys.stderr)


def _model(args: argparse.Namespace, images: Any) -> tuple[Any, dict[str, Any]]:
    from sr.evaluate.score import pick, score
    from sr.inference.device import pick_device

    if args.model is None:
        raise UserError("say what to measure: --model FILE, --model bicubic, or --outputs DIR")
    model, direction = pick(args.model, scale=args.scale, direction=args.direction)
    chosen = {name: getattr(args, name) for name in ("metrics", "tile", "overlap", "sheet", "rows")}
    results = score(model, images, direction=direction, device=pick_device(args.device), **chosen)
    return results, {"model": args.model, "scale": model.scale}


def _outputs(args: argparse.Namespace, images: Any) -> tuple[Any, dict[str, Any]]:
    from sr.evaluate.score import score_outputs

    for name in ("model", "direction", "size", "sheet"):
        if getattr(args, name) is not None:
            raise UserError(f"--outputs are measured as they are; leave out --{name}")
    if args.scale is None:
        raise UserError("say how many times the outputs were upscaled, as --scale 4: that wide a border is left out")
    return score_outputs(images, scale=args.scale, metrics=args.metrics), {
        "outputs": args.outputs,
        "scale": args.scale,
    }


def report(args: argparse.Namespace) -> int:
    from sr.evaluate.score import known
    from sr.inference.device import pick_device
    from sr.inference.upscale import pick_model
    from sr.report import make_report

    models = [(Path(name).stem, pick_model(name, scale=args.scale)) for name in args.model]
    names = ("hr", "lr", "scale", "embed", "tile", "overlap")
    chosen = {name: getattr(args, name) for name in names} | {"device": pick_device(args.device)}
    metrics = args.metrics and known(args.metrics, enlarging=True)
    made = make_report(args.folder, Path(args.output), models=models, metrics=metrics, **chosen)
    _left_out(made.left_out)
    beside = f" and {made.aside}" if made.aside else ""
    print(f"{made.images} image(s) in {args.output}{beside}")
    common.list_failures(made.failed, "image(s) left out")
    return 1 if made.failed else 0


def export(args: argparse.Namespace) -> int:
    from sr.inference.export import export as run

    names = ("scale", "direction", "layout", "opset")
    print(run(args.model, Path(args.output), **{name: getattr(args, name) for name in names}))
    return 0


def _validate(made: argparse.ArgumentParser) -> None:
    made.add_argument("--model", help="a model file, or bicubic")
    again: dict[str, Any] = {"action": "append", "default": [], "metavar": "DIR"}
    made.add_argument("--hr", **again, help="what is wanted, for each set; for a model of colouring photographs alone")
    made.add_argument("--lr", **again, help="for each --hr; left out: made from it by MATLAB's bicubic")
    made.add_argument("--outputs", **again, help="for each --hr, images that are upscaled already; no --model then")
    made.add_argument("--sets", **again, help="Set5, or a folder of sets as they are handed out, in place of --hr")
    made.add_argument("--a", metavar="DIR", help="of pairs for translation")
    made.add_argument("--b", metavar="DIR")
    made.add_argument("--side-by-side", metavar="DIR", help="files that hold a and b, in place of --a and --b")
    common.translation(made)
    made.add_argument("--scale", type=common.positive, help="needed for bicubic and --outputs")
    made.add_argument("--metrics", nargs="+", metavar="NAME", help="as psnr_y l1 lpips (those of the trade)")
    made.add_argument("--json", action="store_true", help="in place of the table")
    made.add_argument("--csv", metavar="FILE", help="write a row for each image")
    made.add_argument("--sheet", metavar="FILE", help="write a contact sheet: input, output, target")
    made.add_argument("--rows", type=common.positive, default=8, help="of the sheet (%(default)s)")
    common.device(made, tile=0)


def _report(made: argparse.ArgumentParser) -> None:
    made.add_argument("folder", nargs="*", help="of images that `sr upscale` or another program made")
    made.add_argument("-o", "--output", required=True, metavar="FILE", help="a page, .html")
    made.add_argument("--lr", metavar="DIR", help="what they were made from; bicubic is made of it")
    made.add_argument("--hr", metavar="DIR", help="the ground truth, to measure against")
    made.add_argument("--model", action="append", default=[], metavar="FILE", help="to upscale --lr with, or more")
    made.add_argument("--scale", type=common.positive, help="of the outputs, where --lr does not tell it")
    made.add_argument("--metrics", nargs="+", metavar="NAME", help="the first one orders (psnr_y ssim_y lpips dists)")
    made.add_argument("--embed", type=float, default=20, metavar="MB", help="above it images lie beside (%(default)s)")
    common.device(made)


def _export(made: argparse.ArgumentParser) -> None:
    made.add_argument("model", help="a model file")
    made.add_argument("-o", "--output", required=True, metavar="FILE", help=".onnx, .pth or .safetensors")
    made.add_argument("--direction", choices=("a_to_b", "b_to_a"), help="of CycleGAN's two (a_to_b)")
    made.add_argument("--scale", type=common.positive, help="needed for a published x3")
    made.add_argument("--layout", choices=("published", "old-esrgan"), default="published", help="names of the weights")
    made.add_argument("--opset", type=common.positive, default=17, help="of ONNX (%(default)s)")
