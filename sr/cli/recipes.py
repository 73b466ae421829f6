"""Verbs that list and copy the recipes: recipes, init."""

import argparse
import json
from pathlib import Path

from sr.cli import common
from sr.cli.common import Add
from sr.config.recipes import locate, names, summary
from sr.core.atomic import replacing
from sr.core.errors import UserError

SCHEMA = "sr.schema.json"


def add(verb: Add) -> None:
    verb(recipes, "list the option files that ship with sr", "sr recipes", result=True, json=True)
    made = verb(init, "write a copy of a recipe, to edit it", "sr init quickstart -o mine.yml")
    made.add_argument("name", help="a recipe, as listed by `sr recipes`")
    made.add_argument("-o", "--output", metavar="FILE", help="(NAME.yml)")
    made.add_argument("--full", action="store_true", help="write every option, with its default and a comment")


def recipes(args: argparse.Namespace) -> int:
    if args.json:
        common.print_json({name: summary(name) for name in names()})
        return 0
    width = max(map(len, names()))
    for name in names():
        print(f"{name:<{width}}  {summary(name)}")
    return 0


def init(args: argparse.Namespace) -> int:
    source, target = locate(args.name), Path(args.output or f"{args.name}.yml")
    if target.exists():
        raise UserError(f"{target} exists already; give another name with -o")
    from sr.config.base import read
    from sr.config.json_schema import schema
    from sr.config.options import Options, resolve
    from sr.config.template import template
    from sr.train import early_check

    editor, tables = target.with_name(SCHEMA), early_check.tables()
    text = template(resolve(read(source), tables), tables) if args.full else source.read_text(encoding="utf-8")
    with replacing(editor) as temporary:
        temporary.write_text(json.dumps(schema(Options, tables)), encoding="utf-8")
    with replacing(target) as temporary:
        modeline = f"# yaml-language-server: $schema={SCHEMA}\n"
        temporary.write_text(modeline + text, encoding="utf-8")
    print(f"{target} and {editor} (for editors) written. Next: edit it, then run `sr check {target}`.")
    return 0
