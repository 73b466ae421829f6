"""Verbs around training: train, check, schema, shard, degrade."""

import argparse
import json
import os
import sys
from pathlib import Path

from sr.cli import common
from sr.cli.common import Add

FORMAT = """png (default) and npy are lossless; npy is about twice the size of png and the fastest to read; jpg and
webp are small and lossy"""


def add(verb: Add) -> None:
    made = verb(train, "train from an options file; the same command again resumes")
    made.add_argument("--accept-changes", action="store_true", help="resume with changed losses, data or optimizer")
    common.options(made)
    common.options(verb(check, "check an options file, print it resolved, count parameters"))
    verb(schema, "print the JSON schema of options files, for editors")
    _shard(verb(shard, "turn a folder of images into webdataset shards of sub-images"))
    made = verb(degrade, "write what the network will see of a folder of images")
    made.add_argument("input"), made.add_argument("output")
    common.options(made, "--options")


def train(args: argparse.Namespace) -> int:
    from sr.train import builder, run

    options = builder.load(args.options, args.set, plugins=args.plugins)
    run.train(options, plugins=args.plugins, accept_changes=args.accept_changes)
    return 0


def check(args: argparse.Namespace) -> int:
    from sr.train import builder, summary

    options = builder.load(args.options, args.set, plugins=args.plugins)
    print(builder.Builder(options, plugins=args.plugins).resolved())
    print(summary.summary(options, plugins=args.plugins))
    return 0


def schema(args: argparse.Namespace) -> int:
    from sr.config.json_schema import schema as of
    from sr.config.options import Options
    from sr.train import builder

    print(json.dumps(of(Options, builder.TABLES), indent=1))
    return 0


def shard(args: argparse.Namespace) -> int:
    from sr.data.make_shards import make_shards

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
    )
    print(f"{report.samples} samples in {report.shards} shards in {args.output}")
    common.list_failures(report.skipped, "image(s) left out")
    if report.others.total:
        print(report.others, file=sys.stderr)
    return 0


def degrade(args: argparse.Namespace) -> int:
    from sr.train import builder, summary

    options = builder.load(args.options, args.set, plugins=args.plugins)
    written = summary.degrade_folder(options, args.input, Path(args.output), plugins=args.plugins)
    print(f"{len(written)} image(s) written to {args.output}")
    return 0


def _shard(made: argparse.ArgumentParser) -> None:
    made.add_argument("input"), made.add_argument("output")
    made.add_argument("--size", type=int, help="side of a sub-image in pixels (480; images side by side: whole)")
    made.add_argument("--step", type=int, default=240, help="distance between sub-images (%(default)s)")
    made.add_argument("--format", choices=("png", "jpg", "webp", "npy"), default="png", help=FORMAT)
    made.add_argument("--quality", type=int, default=95, help="of jpg and webp (%(default)s; webp 100 is lossless)")
    made.add_argument("--per-shard", type=int, default=1000, metavar="N", help="samples in a shard (%(default)s)")
    made.add_argument("--lq", metavar="DIR", help="the low-quality partners of the images, by name")
    made.add_argument("--scale", type=int, help="gt size over lq size, with --lq")
    made.add_argument("--side-by-side", action="store_true", help="images hold pairs: a on the left, b on the right")
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    made.add_argument("--strict", action="store_true", help="an unreadable image is an error")
