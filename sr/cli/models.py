"""Verbs around published models: models, push."""

import argparse
import sys

from sr.cli import common
from sr.cli.common import Add


def add(verb: Add) -> None:
    verb(models, "list the models that -m takes by name", "sr models --json", result=True, json=True)
    parser = verb(
        push, "upload a trained model to the Hugging Face Hub", "sr push runs/photos user/photos_x4 --dry-run"
    )
    parser.add_argument("model", type=common.path, help="folder of a run, or a .safetensors that sr trained")
    parser.add_argument("repository", help="user/name on the Hub; it is made if needed")
    parser.add_argument("--licence", "--license", metavar="ID", help="as the Hub writes it, e.g. cc-by-4.0 (unknown)")
    parser.add_argument("--data", metavar="TEXT", help="what it was trained on (default: the name of the data)")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--dry-run", action="store_true", help="print the model card, and upload nothing")


def models(args: argparse.Namespace) -> int:
    from sr.inference.zoo import file_of, listing
    from sr.inference.zoo.catalog import CATALOG

    rows, folder = listing(), str(file_of(CATALOG[0]).parent)
    if args.json:
        common.print_json({"folder": folder, "models": rows})
        return 0
    table = [("name", "scale", "size", "state", "licence", "for")]
    for row in rows:
        size = f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else "-"
        state = "default" if row["default"] else "downloaded" if row["file"] else "-"
        table.append((row["name"], f"x{row['scale']}", size, state, row["licence"], row["about"]))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
    print(f"\nModels are downloaded once, to {folder}. -m also takes a file or hf:user/repo[/file]")
    return 0


def push(args: argparse.Namespace) -> int:
    from sr.train.push import CARD, WEIGHTS, prepare, send

    upload = prepare(args.model, args.repository, licence=args.licence, data=args.data)
    size = upload.model.stat().st_size / 1e6
    print(
        f"{upload.card}\n{upload.model} ({size:.1f} MB) -> {upload.repo}/{WEIGHTS}\nthis card -> {upload.repo}/{CARD}"
    )
    if not args.licence:
        print("sr: the card names no licence; state one with --licence, e.g. cc-by-4.0", file=sys.stderr)
    if args.dry_run:
        print("nothing was uploaded (--dry-run)")
        return 0
    print(f"uploaded to {send(upload, private=args.private)}")
    return 0
