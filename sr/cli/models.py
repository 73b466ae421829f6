"""Verbs around published models: models."""

import argparse

from sr.cli import common
from sr.cli.common import Add


def add(verb: Add) -> None:
    verb(models, "list the models that -m takes by name", "sr models --json", result=True, json=True)


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
