"""What several verbs share: their arguments, and what they say at the end."""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sr.core.errors import UserError
from sr.inference.codecs import CODECS

Add = Callable[[Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]  # (verb's function, its help)


def options(made: argparse.ArgumentParser, flag: str = "options") -> None:
    made.add_argument(flag, required=True, metavar="FILE") if flag.startswith("-") else made.add_argument(flag)
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as losses.gan.type=hinge")
    made.add_argument("--no-plugins", dest="plugins", action="store_false", help="refuse types from outside sr")


def written(made: argparse.ArgumentParser, *, required: bool = True) -> None:
    made.add_argument("input", nargs="+", help="an image, a video, a tar of images, a folder of these, or list:FILE")
    made.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        help="a folder, always if it ends in /; or a file, for one input",
    )
    made.add_argument("-m", "--model", required=required, help="a model file (upscale: or bicubic)")
    made.add_argument("--format", choices=("png", "jpg", "webp", "tif"), help="of what is written (as the input)")
    made.add_argument("--quality", type=whole(1, 100), default=95, help="of jpg and webp, 1 to 100 (%(default)s)")
    made.add_argument("--suffix", default="", help="appended to each name")
    made.add_argument("--again", action="store_true", help="convert inputs whose output is up to date as well")
    made.add_argument("--strict", action="store_true", help="refuse damaged inputs (convert what is left of them)")
    made.add_argument("--shared", action="store_true", help="other runs may write other inputs to the same folder")
    made.add_argument("--first-frame", action="store_true", help="of animations and several pages (refused)")
    made.add_argument("--max-pixels", type=positive, metavar="N", help="of an input (500 million)")
    made.add_argument("--codec", choices=CODECS, default=CODECS[0], help="of videos (%(default)s)")
    made.add_argument(
        "--crf", type=whole(0, 51), default=17, help="0 to 51, of videos; smaller is better and larger (%(default)s)"
    )
    made.add_argument("--deinterlace", action="store_true", help="make videos progressive before upscaling")


def translation(made: argparse.ArgumentParser) -> None:
    made.add_argument("--direction", choices=("a_to_b", "b_to_a"), help="which is the input (as it was trained)")
    made.add_argument("--size", type=whole(1, 16384), metavar="N", help="resize to N x N first (the size of the input)")


def device(made: argparse.ArgumentParser, *, tile: int | None = None) -> None:
    """tile: None for tiles and overlap that fit the model."""
    made.add_argument("--device", help="cuda, cuda:1, cpu ... (the best there is)")
    usual, overlap = ("what fits the model", None) if tile is None else (str(tile), 32)
    made.add_argument("--tile", type=whole(0), default=tile, help=f"side in input pixels; 0: whole image ({usual})")
    usual = "as far as the model looks" if overlap is None else str(overlap)
    made.add_argument("--overlap", type=whole(0), default=overlap, help=f"of tiles, in input pixels ({usual})")


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """The type of an argument: a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            if least <= (number := int(text)) <= most:
                return number
        except ValueError:
            pass
        limits = f"from {least} to {most}" if most < 2**31 - 1 else f"of {least} or more"
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number {limits}")

    return parse


positive = whole(1)


def finite(text: str) -> float:
    """The type of an argument: a number of 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of 0 or more")
    return number


def paths(args: argparse.Namespace) -> tuple[list[Path], Path]:
    """The inputs and the output. Raises UserError for an empty one, which would stand for the working directory."""
    for name, given in [*(("input", given) for given in args.input), ("--output", args.output)]:
        if not given.strip():
            raise UserError(f"{name} is empty; give a path")
    return [Path(given) for given in args.input], Path(args.output)


def how(args: argparse.Namespace) -> dict[str, Any]:
    from sr.core.allocator import keep_memory
    from sr.inference.device import pick_device
    from sr.inference.video import VideoSettings

    names = ("tile", "overlap", "format", "suffix", "quality", "again", "first_frame", "strict", "shared")
    video = VideoSettings(codec=args.codec, crf=args.crf, deinterlace=args.deinterlace)
    there = pick_device(args.device)
    if there.type == "cpu":
        keep_memory()
    chosen = {name: getattr(args, name) for name in names}
    if args.max_pixels is not None:
        chosen["max_pixels"] = args.max_pixels
    return {**chosen, "as_folder": args.output.endswith(("/", os.sep)), "video": video, "device": there}


def told(report: Any, output: str) -> int:
    """Print the report of all processes, on rank 0. Returns the exit code."""
    if os.environ.get("RANK", "0") != "0":
        return 0
    kept = f", {len(report.kept)} up to date" if report.kept else ""
    print(f"{len(report.written)} image(s) written to {output}{kept}")
    list_failures(report.skipped, "file(s) skipped")
    list_failures(report.notes, "note(s)")
    list_failures(report.damaged, "image(s) damaged, converted as far as they can be decoded")
    list_failures(report.failed, "image(s) failed")
    return 1 if report.failed or report.damaged else 0


def list_failures(failures: Sequence[tuple[object, str]], what: str) -> None:
    if failures:
        print(f"{len(failures)} {what}:", file=sys.stderr)
    for name, reason in failures:
        print(f"  {name}: {reason}", file=sys.stderr)
