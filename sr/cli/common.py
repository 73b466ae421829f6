"""What several verbs share: their arguments, and what they say at the end."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sr.core.allocator import keep_memory
from sr.core.errors import UserError
from sr.images import MAX_PIXELS
from sr.inference.video import CODECS, VideoSettings

Add = Callable[[Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]  # (verb's function, its help)


def options(made: argparse.ArgumentParser, flag: str = "options") -> None:
    made.add_argument(flag, required=True, metavar="FILE") if flag.startswith("-") else made.add_argument(flag)
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as losses.gan.type=hinge")
    made.add_argument("--no-plugins", dest="plugins", action="store_false", help="refuse types from outside sr")


def written(made: argparse.ArgumentParser, *, required: bool = True) -> None:
    made.add_argument("input", nargs="+", help="an image, a video, a tar of images, a folder of these, or list:FILE")
    made.add_argument("-o", "--output", required=True, metavar="DIR", help="a folder; or a file, for one image")
    made.add_argument("-m", "--model", required=required, help="a model file (upscale: or bicubic)")
    made.add_argument("--format", choices=("png", "jpg", "webp", "tif"), help="of what is written (as the input)")
    made.add_argument("--quality", type=quality, default=95, help="of jpg and webp (%(default)s; webp 100 is lossless)")
    made.add_argument("--suffix", default="", help="appended to each name")
    made.add_argument("--again", action="store_true", help="make what is there already too")
    made.add_argument("--first-frame", action="store_true", help="of animations and several pages (refused)")
    made.add_argument("--max-pixels", type=positive, default=MAX_PIXELS, metavar="N", help="of an input (%(default)s)")
    made.add_argument("--codec", choices=CODECS, default=CODECS[0], help="of videos (%(default)s)")
    made.add_argument(
        "--crf",
        type=int,
        choices=range(52),
        metavar="0..51",
        default=17,
        help="of videos; smaller is better and larger (%(default)s)",
    )


def translation(made: argparse.ArgumentParser) -> None:
    made.add_argument("--direction", choices=("a_to_b", "b_to_a"), help="which is the input (as it was trained)")
    made.add_argument("--size", type=positive, metavar="N", help="resize to N x N first (as it is)")


def device(made: argparse.ArgumentParser, *, tile: int | None = None) -> None:
    """tile: None for tiles and overlap that fit the model."""
    made.add_argument("--device", help="cuda, cuda:1, cpu ... (the best there is)")
    usual, overlap = ("what fits the model", None) if tile is None else (str(tile), 32)
    made.add_argument("--tile", type=int, default=tile, help=f"side in input pixels; 0: whole image ({usual})")
    usual = "as far as the model looks" if overlap is None else str(overlap)
    made.add_argument("--overlap", type=int, default=overlap, help=f"of tiles, in input pixels ({usual})")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above 0")
    return int(text)


def quality(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 1 to 100")
    return int(text)


def how(args: argparse.Namespace) -> dict[str, Any]:
    names = ("tile", "overlap", "format", "suffix", "quality", "again", "first_frame", "max_pixels")
    film = VideoSettings(codec=args.codec, crf=args.crf)
    there = pick_device(args.device)
    if there.type == "cpu":
        keep_memory()
    return {**{name: getattr(args, name) for name in names}, "film": film, "device": there}


def told(report: Any, output: str) -> int:
    """The report of all processes, by the first of them."""
    if os.environ.get("RANK", "0") != "0":
        return 0
    kept = f", {len(report.kept)} there already" if report.kept else ""
    print(f"{len(report.written)} image(s) written to {output}{kept}")
    list_failures([(path, "no image by its name") for path in report.ignored], "file(s) passed over")
    list_failures(report.failed, "image(s) failed")
    return 1 if report.failed else 0


def pick_device(name: str | None) -> torch.device:
    if name is None and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:  # one device for each process
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
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
