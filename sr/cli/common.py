"""What several verbs share: their arguments, and what they say at the end."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sr.errors import UserError

Add = Callable[[Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]  # (verb's function, its help)


def options(made: argparse.ArgumentParser, flag: str = "options") -> None:
    made.add_argument(flag, required=True, metavar="FILE") if flag.startswith("-") else made.add_argument(flag)
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as losses.gan.type=hinge")
    made.add_argument("--no-plugins", dest="plugins", action="store_false", help="refuse types from outside sr")


def written(made: argparse.ArgumentParser) -> None:
    made.add_argument("input", nargs="+")
    made.add_argument("-o", "--output", required=True, metavar="DIR")
    made.add_argument("-m", "--model", required=True, help="a model file (upscale: or bicubic)")
    made.add_argument("--format", choices=("png", "jpg", "webp", "tif"), help="of what is written (as the input)")
    made.add_argument("--suffix", default="", help="appended to each name")


def translation(made: argparse.ArgumentParser) -> None:
    made.add_argument("--direction", choices=("a_to_b", "b_to_a"), help="which is the input (as it was trained)")
    made.add_argument("--size", type=positive, metavar="N", help="resize to N x N first (as it is)")


def device(made: argparse.ArgumentParser, *, tile: int) -> None:
    made.add_argument("--device", help="cuda, cuda:1, cpu ... (the best there is)")
    made.add_argument(
        "--tile", type=int, default=tile, help="side of a tile in input pixels; 0: whole image (%(default)s)"
    )
    made.add_argument("--overlap", type=int, default=32, help="of tiles, in input pixels (%(default)s)")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above 0")
    return int(text)


def how(args: argparse.Namespace) -> dict[str, Any]:
    names = {name: getattr(args, name) for name in ("tile", "overlap", "format", "suffix")}
    return {**names, "device": pick_device(args.device)}


def told(report: Any, output: str) -> int:
    print(f"{len(report.written)} image(s) written to {output}")
    list_failures([(path, "no picture by its name") for path in report.ignored], "file(s) passed over")
    list_failures(report.failed, "image(s) failed")
    return 1 if report.failed else 0


def pick_device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name}: there is no such device here; leave it out or give cpu") from None
    return device


def list_failures(failures: Sequence[tuple[object, str]], what: str) -> None:
    if failures:
        print(f"{len(failures)} {what}:", file=sys.stderr)
    for name, reason in failures:
        print(f"  {name}: {reason}", file=sys.stderr)
