"""Write docs/reference/parts.md: every type of an options file with its parameters, defaults and a summary.

`python tools/docs/make_tables.py` writes the file; with `--check`, exit code 1 means that it is out of date.
"""

import argparse
import inspect
import json
import re
import sys
import typing
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from sr.config import registry
from sr.config.registry import Factory, PartOf, Table
from sr.train.builder import TABLES

FILE = Path(__file__).parents[2] / "docs" / "reference" / "parts.md"
PLACES = {
    "generators": "`generator`",
    "discriminators": "`discriminator`",
    "losses": "any name under `losses` but `gan`",
    "gan": "`losses.gan`",
    "gan_terms": "the list `losses.gan.regularizers`",
    "weights": "`weight` of a loss, in place of a number",
    "degrade": "the list `degrade`",
    "sources": "`data.source`",
    "optimizers": "`optimizer.generator`, `optimizer.discriminator`",
    "schedules": "`schedule`",
}
HEAD = """# Parts

Every `type` of an options file with its parameters and their defaults (**bold**: required; in parentheses: the
choices). Written by `python tools/docs/make_tables.py`; edit the constructors and docstrings instead. A dotted path
such as `type: mylab.gan.MyLoss` names a class of your own.
"""


def page() -> str:
    return "\n".join([HEAD, *(section(name, table) for name, table in TABLES.items())])


def section(name: str, table: Table) -> str:
    lines = [f"## {name}", "", f"At {PLACES.get(name, f'`{name}`')}."]
    if table.shared:
        shared = registry.part_model(Table({}, table.shared), _nothing).model_fields
        lines += [f"Each also takes {', '.join(parameter(*item) for item in shared.items())}."]
    if table.supplied:
        lines += [f"{', '.join(f'`{key}`' for key in table.supplied)} comes from the rest of the options."]
    lines += ["", "| type | parameters | what it is |", "|---|---|---|"]
    lines += [row(kind, factory, table) for kind, factory in table.rows.items()]
    return "\n".join([*lines, ""])


def _nothing() -> None:
    """A constructor without parameters, which shows the shared ones alone."""


def row(kind: str, factory: Factory, table: Table) -> str:
    fields = {k: v for k, v in registry.model_of(factory).model_fields.items() if k not in table.supplied}
    parameters = ", ".join(parameter(*item) for item in fields.items()) or "none"
    if "*" in kind:
        parameters = "those of the constructor behind `*`"
    return f"| `{kind}` | {parameters} | {summary(factory)} |".replace("\n", " ")


def parameter(name: str, info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True)
    shown = f"**`{name}`**" if info.is_required() else f"`{name}={_text(default)}`"
    choices = next((found for a in (info.annotation, *info.metadata) if (found := _choices(a))), [])
    return f"{shown} ({', '.join(map(str, choices))})" if choices else shown


def _text(default: Any) -> str:
    return json.dumps(default, default=str).replace('"', "").replace("|", "\\|")


def _choices(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    if isinstance(annotation, PartOf):
        return [f"parts of {annotation.table}"]
    inner = (*typing.get_args(annotation), *getattr(annotation, "__metadata__", ()))
    return next((found for a in inner if (found := _choices(a))), [])


def summary(factory: Factory) -> str:
    """Return the first sentence of the docstring."""
    first = " ".join((inspect.getdoc(factory) or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s+(?=[A-Z`\[])", first)[0].replace("|", "\\|")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="write docs/reference/parts.md")
    parser.add_argument("--check", action="store_true", help="only check whether the file is up to date")
    args = parser.parse_args(arguments)
    if not args.check:
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(page(), encoding="utf-8")
    elif not FILE.is_file() or FILE.read_text(encoding="utf-8") != page():
        print(f"{FILE} is out of date; run python tools/docs/make_tables.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
