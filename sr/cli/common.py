"""Arguments and output that several verbs share."""

import argparse
import dataclasses
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sr.core.errors import UserError
from sr.core.paths import expanded
from sr.inference.choices import CODECS, MAX_SCALE


class Add(Protocol):
    """Adds a verb that runs `function`.

    Args:
        help: one line.
        example: a command, shown at the end of its help.
        result: the verb is run for its output, which --quiet keeps.
        json: add --json, which prints the result as one JSON object.
    """

    def __call__(
        self,
        function: Callable[[argparse.Namespace], int],
        help: str,
        example: str,
        *,
        result: bool = False,
        json: bool = False,
    ) -> argparse.ArgumentParser: ...


# ---- types of arguments ----------------------------------------------------------------------------------------------


def path(text: str) -> str:
    """A path or address. An empty one, as of a variable that is not set, would stand for the working directory.

    `~` and variables are replaced, which a shell does not do in `--output=~/large` and within quotes, unless a file has
    that name. Addresses and commands (`pipe:`) stay as they are.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return text if re.match(r"\w{2,}:", text) or os.path.lexists(text) else expanded(text)


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """A whole number from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            if least <= (number := int(text)) <= most:
                return number
        except ValueError:
            pass
        limits = f"from {least} to {most}" if most < 2**31 - 1 else f"of {least} or more"
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number {limits}")

    return parse


scale = whole(1, MAX_SCALE)


def size(text: str) -> float:
    """A finite number of 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 0 or more")
    return number


# ---- arguments -------------------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser, flag: str = "options") -> None:
    """The options file and what changes it."""
    named: dict[str, Any] = {"required": True, "metavar": "FILE"} if flag.startswith("-") else {}
    parser.add_argument(flag, type=path, help="options file (.yml)", **named)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change an option, e.g. losses.gan.type=hinge"
    )
    parser.add_argument("--no-plugins", dest="plugins", action="store_false", help="refuse types from outside sr")


def add_conversion(parser: argparse.ArgumentParser, *, model: str = "", output: str = "") -> None:
    """Inputs, output, model and file formats of `sr upscale` and `sr translate`.

    model, output: the defaults, for the help. Without one the argument is required.
    """
    add = parser.add_argument
    add("input", nargs="*", type=path, help="image, video, tar of images, folder of these, or list:FILE")
    add("-i", "--input", nargs="+", type=path, default=[], dest="more", metavar="INPUT", help="the same as a flag")
    where = "output folder (if it ends in /), or file" + (f" ({output})" if output else "")
    add("-o", "--output", required=not output, default=output or None, type=path, metavar="DIR", help=where)
    known = "model file, or a name such as RealESRGAN_x4plus or hf:user/repo, see `sr models`"
    known += f" ({model})" if model else ""
    add("-m", "-n", "--model", required=not model, type=path, metavar="MODEL", help=known)
    add("--format", choices=("png", "jpg", "webp", "tif"), help="output format (default: that of the input)")
    add("--quality", type=whole(1, 100), default=95, metavar="N", help="of jpg and webp, 1 to 100 (%(default)s)")
    add("--suffix", default="", help="appended to each name, e.g. _x4")
    add("--again", action="store_true", help="convert inputs whose output is up to date as well")
    add("--strict", action="store_true", help="refuse damaged inputs (default: convert what can be decoded)")
    add("--shared", action="store_true", help="allow other runs to write other inputs to the same folder")
    add("--first-frame", action="store_true", help="take the first frame or page of files with several")
    add("--max-pixels", type=whole(1), metavar="N", help="largest input (500 million)")
    add("--codec", choices=CODECS, default=CODECS[0], help="of videos (%(default)s)")
    add("--crf", type=whole(0, 51), default=17, metavar="N", help="of videos, 0 to 51; smaller is better (%(default)s)")
    add("--deinterlace", action="store_true", help="deinterlace videos before they are converted")


def add_direction(parser: argparse.ArgumentParser) -> None:
    """The side and the size of the input of a translation."""
    add = parser.add_argument
    add("--direction", choices=("a_to_b", "b_to_a"), help="which side is the input (default: as trained)")
    add("--size", type=whole(1, 16384), metavar="N", help="resize inputs to N x N (default: keep their size)")


def add_device(parser: argparse.ArgumentParser, *, tile: int | None = None) -> None:
    """Device and tiles. tile: the default; None chooses tiles and overlap by the model."""
    side, overlap = ("by the model", "by the receptive field") if tile is None else (str(tile), "32")
    add = parser.add_argument
    add("--device", help="cuda, cuda:1, cpu ... (default: the first GPU, else the CPU)")
    add("-t", "--tile", type=whole(0), default=tile, metavar="N", help=f"side in input pixels; 0: whole image ({side})")
    add(
        "--overlap",
        type=whole(0),
        default=None if tile is None else 32,
        metavar="N",
        help=f"of tiles, in input pixels ({overlap})",
    )


# ---- from arguments to calls -----------------------------------------------------------------------------------------


def conversion(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `add_conversion` and `add_device` as those of `upscale` and `translate`."""
    from sr.core.allocator import keep_memory
    from sr.distributed.gpus import check_gpus
    from sr.inference.device import pick_device
    from sr.inference.video import VideoSettings

    names = ("tile", "overlap", "format", "suffix", "quality", "again", "first_frame", "strict", "shared")
    chosen = {name: getattr(args, name) for name in names}
    if args.max_pixels is not None:
        chosen["max_pixels"] = args.max_pixels
    video = VideoSettings(codec=args.codec, crf=args.crf, deinterlace=args.deinterlace)
    device = pick_device(args.device)
    if device.type == "cpu":
        keep_memory()
    elif args.device is None:
        check_gpus(f"{args.verb} ...")
    if not args.input + args.more:
        raise UserError("nothing to convert; give images, videos or folders, such as photos/")
    inputs, as_folder = [Path(given) for given in args.input + args.more], args.output.endswith(("/", os.sep))
    paths = {"inputs": inputs, "output": Path(args.output), "as_folder": as_folder}
    return {**chosen, **paths, "video": video, "device": device}


def print_report(report: Any, args: argparse.Namespace) -> int:
    """Print the report of all processes, on rank 0. Returns the exit code."""
    if os.environ.get("RANK", "0") != "0":
        return 0
    code = 1 if report.failed or report.damaged else 0
    if args.json:
        values = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
        print_json({name: json_of(value) if isinstance(value, list) else value for name, value in values.items()})
        return code
    kept = f", {len(report.kept)} up to date" if report.kept else ""
    print(f"{len(report.written)} image(s) written to {args.output}{kept}")
    if report.written:
        ways = f" ({report.way})" if report.way else ""
        print(f"{report.seconds:.1f} s, {report.seconds / len(report.written):.2f} s per image{ways}")
    list_failures(report.skipped, "file(s) skipped")
    list_failures(_joined(report.notes), "note(s)")
    list_failures(report.damaged, "image(s) damaged, converted as far as they can be decoded")
    list_failures(report.failed, "image(s) failed")
    return code


def _joined(notes: Sequence[tuple[Any, str]]) -> list[tuple[str, str]]:
    """One entry for all files with the same note, which names the first."""
    files: dict[str, list[str]] = {}
    for file, note in notes:
        files.setdefault(note, []).append(str(file))
    return [(f"{len(of)} files, such as {of[0]}" if of[1:] else of[0], note) for note, of in files.items()]


def json_of(entries: Sequence[Any]) -> list[Any]:
    """Paths as text, and (file, reason) as {"file": ..., "reason": ...}."""
    return [
        {"file": str(entry[0]), "reason": entry[1]} if isinstance(entry, tuple) else str(entry) for entry in entries
    ]


def print_json(values: Mapping[str, Any]) -> None:
    print(json.dumps(values, indent=1, allow_nan=False))


def list_failures(failures: Sequence[tuple[object, str]], what: str) -> None:
    """Print a heading and a line for each (name, reason) to stderr."""
    if failures:
        print(f"{len(failures)} {what}:", file=sys.stderr)
    for name, reason in failures:
        print(f"  {name}: {reason}", file=sys.stderr)
