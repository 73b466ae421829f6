"""One function per verb. Mistakes of the user end in one sentence on stderr and a non-zero code, never a traceback."""

import argparse
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from sr import __version__, dist
from sr.errors import UserError
from sr.pulse import LOST


def train(args: argparse.Namespace) -> int:
    from sr import build, run

    run.train(build.load(args.options, args.set, plugins=args.plugins), plugins=args.plugins)
    return 0


def check(args: argparse.Namespace) -> int:
    from sr import build, describe

    options = build.load(args.options, args.set, plugins=args.plugins)
    print(build.Build(options, plugins=args.plugins).resolved())
    print(describe.summary(options, plugins=args.plugins))
    return 0


def schema(args: argparse.Namespace) -> int:
    from sr import build
    from sr.options import Options
    from sr.schema import schema as of

    print(json.dumps(of(Options, build.TABLES), indent=1))
    return 0


def shard(args: argparse.Namespace) -> int:
    from sr.data.make import make_shards
    from sr.data.paths import image_paths

    report = make_shards(
        Path(args.input) if Path(args.input).is_dir() else image_paths(args.input),
        Path(args.output),
        size=480 if args.size is None and not args.side_by_side else args.size,
        step=args.step,
        format=args.format,
        quality=args.quality,
        per_shard=args.per_shard,
        lq=Path(args.lq) if args.lq else None,
        scale=args.scale,
        side_by_side=args.side_by_side,
        workers=args.workers,
        strict=args.strict,
    )
    print(f"{report.samples} samples in {report.shards} shards in {args.output}")
    _list_failures(report.skipped, "image(s) left out")
    return 0


def degrade(args: argparse.Namespace) -> int:
    from sr import build, describe

    options = build.load(args.options, args.set, plugins=args.plugins)
    written = describe.degrade_folder(options, args.input, Path(args.output), plugins=args.plugins)
    print(f"{len(written)} image(s) written to {args.output}")
    return 0


def validate(args: argparse.Namespace) -> int:
    from sr.score import Pictures, lines, pick, score, table

    pictures = Pictures(args.hr, args.lr, args.a, args.b, args.side_by_side, args.size)
    pictures.check()
    model, direction = pick(args.model, scale=args.scale, direction=args.direction)
    device, names = _pick_device(args.device), ("metrics", "tile", "overlap", "sheet", "rows")
    chosen = {name: getattr(args, name) for name in names}
    results = score(model, pictures, direction=direction, device=device, **chosen)
    for metric, reason in results.left_out.items():
        print(f"{metric} is left out: {reason}", file=sys.stderr)
    if args.json:
        print(json.dumps({"model": args.model, "scale": model.scale, **table(results)}, indent=1, allow_nan=False))
    else:
        print("\n".join(lines(results)))
    return 0


def upscale(args: argparse.Namespace) -> int:
    from sr.upscale import pick_model
    from sr.upscale import upscale as run

    model = pick_model(args.model, scale=args.scale)
    return _told(run([Path(given) for given in args.input], Path(args.output), model, **_how(args)), args.output)


def translate(args: argparse.Namespace) -> int:
    from sr.translate import pick_translator
    from sr.translate import translate as run

    model, direction = pick_translator(args.model, args.direction)
    if args.eval and hasattr(model.net, "test_time"):
        setattr(model.net, "test_time", "eval")  # noqa: B010  (a property, which nn.Module's types do not know)
    side, inputs = direction if args.side_by_side else None, [Path(given) for given in args.input]
    return _told(run(inputs, Path(args.output), model, side=side, size=args.size, **_how(args)), args.output)


def _how(args: argparse.Namespace) -> dict[str, Any]:
    names = {name: getattr(args, name) for name in ("tile", "overlap", "format", "suffix")}
    return {**names, "device": _pick_device(args.device)}


def _told(report: Any, output: str) -> int:
    print(f"{len(report.written)} image(s) written to {output}")
    _list_failures([(path, "no picture by its name") for path in report.ignored], "file(s) passed over")
    _list_failures(report.failed, "image(s) failed")
    return 1 if report.failed else 0


def _pick_device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name}: there is no such device here; leave it out or give cpu") from None
    return device


def _list_failures(failures: Sequence[tuple[object, str]], what: str) -> None:
    if failures:
        print(f"{len(failures)} {what}:", file=sys.stderr)
    for name, reason in failures:
        print(f"  {name}: {reason}", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="sr", description="Train image super-resolution GANs on many machines; use them."
    )
    root.add_argument("--version", action="version", version=f"sr {__version__}")
    verbs = root.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function: Callable[..., int], text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = verbs.add_parser(function.__name__, help=text, description=text)
        made.set_defaults(run=function)
        return made

    _options(verb(train, "train from an options file; the same command again continues"))
    _options(verb(check, "check an options file, print it resolved, count parameters"))
    verb(schema, "print the JSON schema of options files, for editors")
    _shard(verb(shard, "turn a folder of images into webdataset shards of sub-images"))
    made = verb(degrade, "write what the network will see of a folder of images")
    made.add_argument("input"), made.add_argument("output")
    _options(made, "--options")
    _validate(verb(validate, "measure a model on pairs of images"))
    made = verb(upscale, "enlarge an image or a folder tree of images")
    _written(made)
    made.add_argument("--scale", type=int, help="needed for bicubic")
    _device(made, tile=256)
    made = verb(translate, "translate an image or a folder tree of images")
    _written(made)
    _translation(made)
    made.add_argument("--side-by-side", action="store_true", help="inputs hold a and b; one half is taken")
    made.add_argument("--eval", action="store_true", help="no dropout, and batch norm by its running statistics")
    _device(made, tile=0)
    return root


def _options(made: argparse.ArgumentParser, flag: str = "options") -> None:
    made.add_argument(flag, required=True, metavar="FILE") if flag.startswith("-") else made.add_argument(flag)
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as losses.gan.type=hinge")
    made.add_argument("--no-plugins", dest="plugins", action="store_false", help="refuse types from outside sr")


def _shard(made: argparse.ArgumentParser) -> None:
    made.add_argument("input"), made.add_argument("output")
    made.add_argument("--size", type=int, help="side of a sub-image in pixels (480; pictures side by side: whole)")
    made.add_argument("--step", type=int, default=240, help="distance between sub-images (%(default)s)")
    made.add_argument("--format", choices=("png", "jpg", "webp"), default="png")
    made.add_argument("--quality", type=int, default=95, help="of jpg and webp (%(default)s; webp 100 is lossless)")
    made.add_argument("--per-shard", type=int, default=1000, metavar="N", help="samples in a shard (%(default)s)")
    made.add_argument("--lq", metavar="DIR", help="the low-quality partners of the images, by name")
    made.add_argument("--scale", type=int, help="gt size over lq size, with --lq")
    made.add_argument("--side-by-side", action="store_true", help="images hold pairs: a on the left, b on the right")
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    made.add_argument("--strict", action="store_true", help="an unreadable image is an error")


def _validate(made: argparse.ArgumentParser) -> None:
    made.add_argument("--model", required=True, help="a model file, or bicubic")
    made.add_argument("--hr", metavar="DIR", help="what is wanted; for a model of colouring photographs alone")
    made.add_argument("--lr", metavar="DIR", help="left out: made from --hr by MATLAB's bicubic")
    made.add_argument("--a", metavar="DIR", help="of pairs for translation")
    made.add_argument("--b", metavar="DIR")
    made.add_argument("--side-by-side", metavar="DIR", help="files that hold a and b, in place of --a and --b")
    _translation(made)
    made.add_argument("--scale", type=int, help="needed for bicubic")
    made.add_argument("--metrics", nargs="+", metavar="NAME", help="as psnr_y l1 lpips (those of the trade)")
    made.add_argument("--json", action="store_true")
    made.add_argument("--sheet", metavar="FILE", help="write a contact sheet: input, output, target")
    made.add_argument("--rows", type=_positive, default=8, help="of the sheet (%(default)s)")
    _device(made, tile=0)


def _written(made: argparse.ArgumentParser) -> None:
    made.add_argument("input", nargs="+")
    made.add_argument("-o", "--output", required=True, metavar="DIR")
    made.add_argument("-m", "--model", required=True, help="a model file (upscale: or bicubic)")
    made.add_argument("--format", choices=("png", "jpg", "webp", "tif"), help="of what is written (as the input)")
    made.add_argument("--suffix", default="", help="appended to each name")


def _translation(made: argparse.ArgumentParser) -> None:
    made.add_argument("--direction", choices=("a_to_b", "b_to_a"), help="which is the input (as it was trained)")
    made.add_argument("--size", type=_positive, metavar="N", help="resize to N x N first (as it is)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above 0")
    return int(text)


def _device(made: argparse.ArgumentParser, *, tile: int) -> None:
    made.add_argument("--device", help="cuda, cuda:1, cpu ... (the best there is)")
    made.add_argument(
        "--tile", type=int, default=tile, help="side of a tile in input pixels; 0: whole image (%(default)s)"
    )
    made.add_argument("--overlap", type=int, default=32, help="of tiles, in input pixels (%(default)s)")


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        return int(args.run(args))
    except UserError as error:
        return _failed(str(error), error.exit_code)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            return _reader_gone()
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"{where}{error.strerror or error}; make room or choose another place, then run it again", 2)
    except torch.OutOfMemoryError as error:
        said = str(error).partition(". ")[0]
        return _failed(f"{said}; raise train.accumulate, or lower data.batch_size, data.gt_size or --tile", 2)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except Exception as error:
        if lost := dist.lost(error):
            return _failed(lost, LOST)
        traceback.print_exc()
        return _failed("a defect of sr, not yours: please report the lines above", 70)


def _reader_gone() -> int:
    """Whoever read our output has left (`sr check x.yml | head`); nothing more is to be written to it."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _failed(message: str, code: int) -> int:
    """Say it once, and leave. One of many processes must not wait for the others in clean-up: they may wait for it."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.leave(message, code)
    print(f"sr: {message}", file=sys.stderr, flush=True)
    return code
