"""Fill the reference pages of the documentation from the code, as a hook of mkdocs.

A line `<!-- generated: NAME -->` of a page is replaced by the output of the function NAME in PAGES. So the pages in the
repository hold prose only, and nothing in them can be out of date.

    mkdocs serve                          # the site, on http://127.0.0.1:8000
    python tools/docs/reference.py cli    # the Markdown of one of them
"""

import argparse
import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Collection, Iterator
from typing import Any

from pydantic import BaseModel

import sr
from sr.cli import parser as cli_parser
from sr.config import registry
from sr.config.options import Options
from sr.config.registry import Factory, Table
from sr.evaluate.metrics import METRICS
from sr.nets.adapt import SCALE
from sr.train.builder import TABLES

MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
PLACES = {
    "generators": "`generator`",
    "discriminators": "`discriminator`",
    "losses": "any name under `losses` except `gan`",
    "gan": "`losses.gan`",
    "gan_terms": "the list `losses.gan.regularizers`",
    "weights": "`weight` of a loss, instead of a number",
    "degrade": "the list `degrade`",
    "augment": "the list `augment`",
    "sources": "`data.source`",
    "optimizers": "`optimizer.generator` and `optimizer.discriminator`",
    "schedules": "`schedule`",
    "trackers": "the list `log.trackers`",
}
MEANINGS = {  # of parameters that several parts have, unless the part itself describes them
    "num_in_ch": "Channels of the input.",
    "num_out_ch": "Channels of the output.",
    "num_feat": "Channels of the first layer; most other layers have as many, or a multiple of it.",
    "num_block": "Number of blocks (per group, if there are groups).",
    "num_group": "Number of groups of blocks.",
    "num_grow_ch": "Channels that each convolution of a dense block adds.",
    "img_range": "Images are multiplied by it first, and the output is divided by it.",
    "rgb_mean": "Mean color that is subtracted first and added at the end.",
    "res_scale": "Factor of each residual.",
    "act_type": "Activation function.",
    "norm": "Normalization layer.",
    "dropout": "Whether some layers drop half of their features during training.",
    "test_time": "paper: dropout and the statistics of the image also after training. eval: neither.",
    "skip_connection": "Whether features of the first half are added in the second half.",
    "pretrained": "Start from ImageNet weights.",
    "kind": "How the differences of both directions are combined.",
    "net": "The network whose features are compared.",
    "weights": "pretrained: ImageNet weights. Otherwise a file.",
    "calibration": "File with the weights of the channels; none: that of the installed package.",
    "checkpointing": "Recompute features in the backward pass: less memory, one more forward pass.",
    "cache": "MiB of device memory for features of repeated targets; 0: off.",
    "prob": "Probability that the stage is applied to a sample.",
    "sizes": "Range of kernel sizes; odd numbers are used.",
    "choices": "Lists of stages.",
    "method": "Edge detector.",
    "lr": "Base learning rate.",
    "betas": "Decay of the averages of the gradient and of its square.",
    "weight_decay": "Weight decay.",
    "eps": "Added to the denominator.",
    "unshuffle": "Whether x1 and x2 begin with a pixel unshuffle.",
    "file": "The file.",
    "range": "Width of the range of values in which images are compared: 1 for 0..1, 2 for -1..1.",
    "backbone": "The network whose features are compared.",
    "layers": "Layers that are compared, with their weights; none: those of the backbone's default.",
    "distance": "Distance of two features (or images).",
    "base": "The loss that is applied to the differences.",
    "quality": "Range of the quality.",
    "sources": "The sources.",
    "of": "The part that is repeated or converted.",
    "space": "lab: the network predicts a and b of CIE Lab. rgb: it predicts R, G and B.",
    "milestones": "Steps at which the rate falls.",
    "gamma": "Factor of the rate at each milestone.",
    "a": "The first domain.",
    "b": "The second domain.",
    "value": "The weight.",
    "penalty": "Weight of the gradient penalty.",
    "every": "Steps between two computations.",
    "real_label": "Target of real images.",
    "fake_label": "Target of generated images.",
}
RETURNED = ["sr.inference.api.ImageModel"]  # what the public functions return
SHARED = {
    "weight": "Factor of this loss in the sum.",
    "regularizers": "Penalties that are added to the loss of the discriminator.",
    "conditional": "The discriminator also sees the input (pix2pix).",
    "no_decay": "Patterns of parameters without weight decay, such as `*.bias`.",
    "lr_scale": "Pattern of parameters -> factor of their learning rate, such as `body.*: 0.1`.",
    "warmup_steps": "Steps over which the learning rate rises linearly from 0.",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks of a page (called by mkdocs)."""
    return MARK.sub(lambda mark: PAGES[mark[1]](), markdown)


# ---- options ---------------------------------------------------------------------------------------------------------


def options() -> str:
    """Return a table for each section of an options file."""
    return "\n\n".join(
        f"## {f'`{name}`' if name else 'Top level'}\n\n{_prose(inspect.getdoc(model) or '')}\n\n{_table(rows)}"
        for name, model, rows in option_sections()
    )


def option_sections() -> Iterator[tuple[str, type[BaseModel], list[list[str]]]]:
    """Yield (path, model, rows) of the top level and of every section below it."""
    waiting: list[tuple[str, type[BaseModel]]] = [("", Options)]
    while waiting:
        name, model = waiting.pop(0)
        yield name, model, [_row(f"{name}.{row[0]}".lstrip("."), *row[1:]) for row in parameters(model)]
        for key, info in model.model_fields.items():
            for inner in registry.leaves(info.annotation):
                if inspect.isclass(inner) and issubclass(inner, BaseModel) and inner is not Options:
                    between = {"sets": ".NAME", "init": ".PLAYER"}.get(key, "")
                    if (place := (f"{name}.{key}{between}".lstrip("."), inner)) not in waiting:
                        waiting.append(place)


def parameters(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, type, default, meaning) of each field, as Markdown."""
    schema = model.model_json_schema()
    for key, info in model.model_fields.items():
        found = schema["properties"][key]
        default = info.get_default(call_default_factory=True)
        section = isinstance(default, BaseModel)
        shown = "required" if info.is_required() else "" if section else f"`{json.dumps(default, default=str)}`"
        type_ = kind(found, schema.get("$defs", {})).removesuffix(" or null")
        yield key, type_, "none" if default is None and not info.is_required() else shown, info.description or ""


def kind(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the type of a JSON schema in words."""
    if "$part" in schema:
        return f"[part](parts.md#{schema['$part']})"
    if "$ref" in schema:
        found = definitions[schema["$ref"].rpartition("/")[2]]
        return "section" if found.get("type") == "object" else kind(found, definitions)
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if choices:
        return ", ".join(f"`{json.dumps(choice).strip(chr(34))}`" for choice in choices)
    if "anyOf" in schema or "oneOf" in schema:
        kinds = [kind(one, definitions) for one in schema.get("anyOf", schema.get("oneOf"))]
        return " or ".join(dict.fromkeys(kinds))
    if schema.get("type") == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        inner = ", ".join(dict.fromkeys(kind(one, definitions) for one in items))
        return f"list of {len(items)} of {inner}" if "prefixItems" in schema else f"list of {inner}"
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        return f"mapping to {kind(inner, definitions)}" if isinstance(inner, dict) else "mapping"
    names = {"integer": "integer", "number": "number", "boolean": "boolean", "string": "text", "null": "null"}
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[limit]:g}" for limit, sign in signs.items() if limit in schema]
    return " ".join([names.get(schema.get("type", ""), "any"), ", ".join(limits)]).strip()


# ---- parts -----------------------------------------------------------------------------------------------------------


def parts() -> str:
    """Return a section for each table of parts, with each part and its parameters, and one for the metrics."""
    return "\n\n".join([*(_part_table(name, table) for name, table in TABLES.items()), _metrics()])


def _part_table(name: str, table: Table) -> str:
    lines = [f"## {name}", f"At {PLACES[name]}."]
    if table.supplied:
        lines.append(f"`{'`, `'.join(table.supplied)}` is taken from the rest of the options.")
    if table.shared:
        model = registry.part_model(Table({}, table.shared), _nothing)
        lines += ["Every part here also takes:", _table([_row(*row[:3], SHARED[row[0]]) for row in parameters(model)])]
    rows = {**table.rows, **table.members()}
    return "\n\n".join([*lines, *(_part(kind, factory, table) for kind, factory in rows.items())])


def _nothing() -> None:
    """A constructor without parameters, which shows the shared ones alone."""


def _part(kind: str, factory: Factory, table: Table) -> str:
    fields = [] if "*" in kind else list(parameters(registry.model_of(factory, (*table.left_out(factory), *SCALE))))
    text, own = described(factory, [key for key, *_ in fields])
    rows = [
        _row(key, type_, default, "" if "." in kind else meaning(key, text, own)) for key, type_, default, _ in fields
    ]
    below = _table(rows) if rows else "The parameters of the constructor." if "*" in kind else "No parameters."
    return f"### `{kind}`\n\n{_prose(text)}\n\n{below}"


def described(factory: Factory, names: Collection[str]) -> tuple[str, dict[str, str]]:
    """Return the docstring without the sentences that describe a parameter (`name: what it is.`), and those."""
    doc = inspect.getdoc(factory) or ""
    if inspect.isclass(factory) and "Args:" in (own := inspect.getdoc(factory.__init__) or ""):
        doc = f"{doc}\n\n{own}"
    doc = re.sub(r"\n *Args:\n", "\n\n", doc)
    one = "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "(?!)"
    start = re.compile(rf"(?:^|(?<=[.)] )|(?<=\n))((?:(?:{one}), )*(?:{one})): ")
    kept, found = [], {}
    for paragraph in doc.split("\n\n"):
        text, *pieces = start.split("\n".join(line.strip() for line in paragraph.splitlines()))
        if text.strip():
            kept.append(text.strip())
        for keys, meaning in zip(pieces[::2], pieces[1::2], strict=True):
            found |= dict.fromkeys(keys.split(", "), " ".join(meaning.split()))
    return "\n\n".join(kept), found


def meaning(parameter: str, text: str, own: dict[str, str]) -> str:
    """Return what a parameter of a part means; "" where the text above the table has it."""
    named = f"`{parameter}`" in text or ("_" in parameter and parameter in text)
    return own.get(parameter) or ("" if named and parameter not in MEANINGS else MEANINGS[parameter])


def _metrics() -> str:
    rows = []
    for name, metric in METRICS.items():
        function: Any = getattr(metric.measure, "func", metric.measure)
        text = (inspect.getdoc(function) or "").split("\n\n")[0]
        better = "higher" if metric.perfect == float("inf") else f"near {metric.perfect:g}"
        rows.append([f"`{name}`", better, _cell(_prose(" ".join(text.split())))])
    head = "## metrics\n\nIn `sr validate --metrics`, `sr report --metrics`, and some of them at `validation.best`."
    return f"{head}\n\n{_table(rows, ('metric', 'better', 'what it is'))}"


# ---- command line and Python -----------------------------------------------------------------------------------------


def cli() -> str:
    """Return a section for each verb with its example and arguments."""
    return "\n\n".join(_verb(*item) for item in verbs().items())


def verbs() -> dict[str, argparse.ArgumentParser]:
    actions = cli_parser()._actions
    choices = next(action.choices for action in actions if isinstance(action, argparse._SubParsersAction))
    return typing.cast(dict[str, argparse.ArgumentParser], choices)


def _verb(name: str, parser: argparse.ArgumentParser) -> str:
    formatter = parser._get_formatter()
    rows = []
    for action in sorted(parser._actions, key=lambda action: bool(action.option_strings)):
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        value = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
        names = action.option_strings or [formatter._format_args(action, action.dest)]
        shown = ", ".join(f"`{one} {value}`" if action.option_strings and value else f"`{one}`" for one in names)
        rows.append([_cell(shown), _cell(_prose(formatter._expand_help(action) if action.help else ""))])
    text = (parser.description or "")[:1].upper() + (parser.description or "")[1:]
    lines = [f"## sr {name}", f"{_prose(text)}."]
    if parser.epilog:
        lines.append(f"```sh\n{parser.epilog.partition('example')[2].lstrip('s:').strip() or parser.epilog}\n```")
    return "\n\n".join([*lines, _table(rows, ("argument", "meaning")) if rows else "No arguments."])


def api() -> str:
    """Return directives for mkdocstrings, one for each public name of `sr`."""
    public = [getattr(sr, name) for name in sr.__all__ if not name.startswith("_")]
    places = [
        f"{one.__name__}.api.{one.__name__.rpartition('.')[2]}"  # a package that can be called
        if inspect.ismodule(one)
        else f"{one.__module__}.{one.__name__}"
        for one in public
    ]
    return "\n\n".join(f"::: {place}\n    options:\n      heading_level: 2" for place in [*places, *RETURNED])


PAGES: dict[str, Callable[[], str]] = {"options": options, "parts": parts, "cli": cli, "api": api}


# ---- Markdown --------------------------------------------------------------------------------------------------------


def _row(key: str, kind: str, default: str, meaning: str) -> list[str]:
    return [f"`{key}`", _cell(kind), _cell(default), _cell(_prose(meaning))]


def _table(rows: list[list[str]], head: tuple[str, ...] = ("key", "type", "default", "meaning")) -> str:
    if head[-1] == "meaning" and not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    lines = [" | ".join(row) for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _prose(text: str) -> str:
    """Escape what Markdown would read as markup outside of code, such as the product in `a * b`."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(one if one.startswith("`") else re.sub(r"([*_<\[\]\\])", r"\\\1", one) for one in pieces)


if __name__ == "__main__":
    sys.stdout.write(PAGES[sys.argv[1]]() + "\n")
