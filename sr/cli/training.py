"""Verbs around training: train, check, schema, shard, degrade."""

import argparse
import json
import os
import sys
from pathlib import Path

from sr.cli import common
from sr.cli.common import Add
from sr.core.errors import UserError

FORMAT = """png (default) and npy are lossless; npy is about twice the size of png and the fastest to read; jpg and
webp are small and lossy"""


def add(verb: Add) -> None:
    parser = verb(train, "train from an options file, or resume the run", "sr train quickstart")
    parser.add_argument("--accept-changes", action="store_true", help="resume with changed losses, data or optimizer")
    parser.add_argument(
        "--profile",
        type=common.whole(1),
        metavar="N",
        help="trace N steps after a warm-up, print the ten most expensive operators, and end without a checkpoint",
    )
    parser.add_argument(
        "--find-lr",
        type=common.whole(5),
        nargs="?",
        const=100,
        metavar="N",
        help="raise the learning rate over N steps (100), print a suggestion, and end without a checkpoint",
    )
    common.add_options(parser)
    help = "check an options file and print it resolved"
    common.add_options(verb(check, help, "sr check quickstart.yml", result=True, json=True))
    verb(schema, "print the JSON schema of options files, for editors", "sr schema > options.schema.json", result=True)
    _shard(
        verb(shard, "cut a folder of images into WebDataset-format tar shards", "sr shard photos/ shards/", json=True)
    )
    help = "index tars that others published, by their headers"
    _index(verb(index, help, "sr index s3://bucket/set/*.tar", json=True))
    parser = verb(
        degrade,
        "write the LR images that training would see",
        "sr degrade photos/ seen/ --options quickstart.yml",
    )
    parser.add_argument("input", type=common.path, help="folder of images")
    parser.add_argument("output", type=common.path, help="output folder")
    common.add_options(parser, "--options")


def _check_early(args: argparse.Namespace) -> tuple[str, ...]:
    """Check the options before torch is imported, which takes seconds. Returns the file and its bases."""
    from sr.train import early_check

    return early_check.check(args.options, args.set, plugins=args.plugins)


def train(args: argparse.Namespace) -> int:
    _check_early(args)
    if args.profile or args.find_lr:
        return _try(args)
    from sr.train.api import train as run

    run(args.options, overrides=args.set, plugins=args.plugins, accept_changes=args.accept_changes)
    return 0


def _try(args: argparse.Namespace) -> int:
    """Train a few steps without saving."""
    from sr.train import builder, trials

    if args.profile and args.find_lr:
        raise UserError("--profile and --find-lr exclude each other; give one of them")
    options = builder.load(args.options, args.set, plugins=args.plugins)
    if args.profile:
        trials.profile(options, steps=args.profile, plugins=args.plugins)
    else:
        trials.find_lr(options, steps=args.find_lr, plugins=args.plugins)
    return 0


def check(args: argparse.Namespace) -> int:
    files = _check_early(args)
    from sr.config.base import read
    from sr.config.recipes import locate
    from sr.config.yaml_source import with_origins
    from sr.train import builder, summary

    options = builder.load(args.options, args.set, plugins=args.plugins)
    build, about = builder.Builder(options, plugins=args.plugins), summary.summary(options, plugins=args.plugins)
    if args.json:
        common.print_json({"files": files, "options": build.filled(), **about._asdict()})
    else:
        inherits = f"# {' inherits from '.join(files)}\n" if files[1:] else ""
        values = with_origins(build.filled(), read(locate(args.options), args.set))
        print(f"{inherits}# values without a comment are defaults\n{values}\n{about}")
    return 0


def schema(args: argparse.Namespace) -> int:
    from sr.config.json_schema import schema as of
    from sr.config.options import Options
    from sr.train import early_check

    print(json.dumps(of(Options, early_check.tables()), indent=1))
    return 0


def shard(args: argparse.Namespace) -> int:
    from sr.data.make_shards import make_shards
    from sr.data.quality import Limits

    report = make_shards(
        args.input,
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
        limits=Limits(**{name: getattr(args, name) for name in Limits._fields}),
    )
    if args.json:
        values = {"samples": report.samples, "shards": report.shards, "skipped": common.json_of(report.skipped)}
        values["others"] = {reason: {"count": n, "example": e} for reason, (n, e) in report.others.reasons.items()}
        values["notes"] = report.notes
        common.print_json(values)
        return 0
    print(f"{report.samples} samples in {report.shards} shards in {args.output}")
    common.list_failures(report.skipped, "image(s) left out")
    for note in report.notes:
        print(note, file=sys.stderr)
    return 0


def index(args: argparse.Namespace) -> int:
    from sr.data.index import Choice
    from sr.data.make_index import make_index

    report = make_index(args.input, args.output, choice=Choice(args.gt, args.lq))
    if args.json:
        common.print_json({name: getattr(report, name) for name in ("files", "shards", "samples", "received", "total")})
        return 0
    print(f"{report.samples} samples in {report.shards} tars of {report.total / 1e9:.3g} GB", end="")
    print(f", {report.received / 1e6:.3g} MB read from servers; written to {', '.join(report.files)}")
    if report.skipped.total:
        print(report.skipped, file=sys.stderr)
    return 0


def degrade(args: argparse.Namespace) -> int:
    _check_early(args)
    from sr.train import builder, summary

    options = builder.load(args.options, args.set, plugins=args.plugins)
    written = summary.degrade_folder(options, args.input, Path(args.output), plugins=args.plugins)
    print(f"{len(written)} image(s) written to {args.output}")
    return 0


def _index(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("input", nargs="+", type=common.path, help="tars: folders, files, globs, brace patterns, URLs or list:FILE")
    add("-o", "--output", type=common.path, metavar="FILE", help="one index of all (index.json in each folder)")
    add("--gt", default="", metavar="NAME", help="the member to take, by its name after the key, e.g. image.jpg")
    add("--lq", default="", metavar="NAME", help="the LR member to take")


def _shard(parser: argparse.ArgumentParser) -> None:
    add, whole = parser.add_argument, common.whole
    add("input", type=common.path, help="images: a folder, a glob or a file")
    add("output", type=common.path, help="output folder")
    add("--size", type=whole(32), metavar="N", help="side of a sub-image in pixels (480; side by side: whole images)")
    add("--step", type=whole(1), default=240, metavar="N", help="distance between sub-images (%(default)s)")
    add("--format", choices=("png", "jpg", "webp", "npy"), default="png", help=FORMAT)
    add("--quality", type=whole(1, 100), default=95, metavar="N", help="of jpg and webp, 1 to 100 (%(default)s)")
    add("--per-shard", type=whole(1), default=1000, metavar="N", help="samples in a shard (%(default)s)")
    add("--lq", type=common.path, metavar="DIR", help="LR images, paired by name")
    add("--scale", type=common.scale, metavar="N", help="HR size over LR size, with --lq")
    add("--side-by-side", action="store_true", help="images hold pairs: a on the left, b on the right")
    drop = parser.add_argument_group("drop images", "each reason is reported with a count and an example")
    drop.add_argument("--min-side", type=whole(1), default=0, metavar="N", help="shorter side below N pixels")
    drop.add_argument("--max-side", type=whole(1), default=0, metavar="N", help="longer side above N pixels")
    drop.add_argument("--blockiness", type=float, default=0.0, metavar="X", help="JPEG blocks; 1: none, e.g. 1.3")
    drop.add_argument("--blur", type=float, default=0.0, metavar="X", help="variance of the Laplacian below X, e.g. 50")
    help = "near-duplicates by perceptual hash, at most BITS of 64 apart (%(const)s); keeps the largest"
    drop.add_argument("--dedupe", type=whole(0, 16), nargs="?", const=4, metavar="BITS", help=help)
    add("--workers", type=whole(1), default=os.cpu_count() or 1, metavar="N", help="processes (all cores)")
    add("--strict", action="store_true", help="stop at an unreadable image")
