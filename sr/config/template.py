"""A resolved options file with a comment above every key: `sr init NAME --full`."""

import inspect
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sr.config.options import Options
from sr.config.registry import PartOf, Tables, fill, find, part_model

WIDTH = 120
Annotations = tuple[Any, ...]


def template(options: Options, tables: Tables) -> str:
    """Return the options as YAML with all defaults, and with a comment for each key that has a description.

    Keys without a value are commented out.
    """
    values = options.model_dump(mode="json", exclude_none=True)
    fill(Options, values, tables)
    return "\n".join(_Writer(tables).keys(Options, values, "")) + "\n"


class _Writer:
    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def keys(self, model: type[BaseModel], values: Mapping[str, Any], indent: str) -> Iterator[str]:
        """The lines of a section, or of a part without its type."""
        for key, info in model.model_fields.items():
            yield from _comment(_about(info), indent)
            if values.get(key) in (None, {}, []):
                yield f"{indent}# {key}: {_flow(values.get(key))}"
            else:
                yield from self.entry(key, (info.annotation, *info.metadata), values[key], indent)
        terms = typing.get_args(model.__annotations__.get("__pydantic_extra__"))[1:]
        for key in values.keys() - model.model_fields.keys() - {"type"}:
            yield from self.entry(key, terms, values[key], indent)

    def entry(self, key: str, kinds: Annotations, value: Any, indent: str) -> Iterator[str]:
        lines = list(self.block(kinds, value, indent + "  "))
        yield from [f"{indent}{key}:", *lines] if lines else [f"{indent}{key}: {_flow(value)}"]

    def block(self, kinds: Annotations, value: Any, indent: str) -> Iterator[str]:
        """The lines of a part, a section, or several of them; none of a plain value."""
        tables = [kind.table for kind in kinds if isinstance(kind, PartOf)]
        if tables and isinstance(value, Mapping):
            yield from self.part(tables[0], value, indent)
            return
        for kind in kinds:
            inner, origin = typing.get_args(kind), typing.get_origin(kind)
            if inspect.isclass(kind) and issubclass(kind, BaseModel) and isinstance(value, Mapping):
                yield from self.keys(kind, value, indent)
            elif origin is dict and isinstance(value, Mapping):
                for key, item in value.items():
                    yield from self.entry(key, inner[1:], item, indent)
            elif origin is list and isinstance(value, list):
                for first, *rest in filter(None, (list(self.block(inner, item, indent + "  ")) for item in value)):
                    yield from [f"{indent}- {first.lstrip()}", *rest]
            elif inner and origin not in (dict, list, tuple, typing.Literal):
                yield from self.block(inner, value, indent)

    def part(self, table: str, part: Mapping[str, Any], indent: str) -> Iterator[str]:
        factory = find(self.tables[table], part["type"])
        yield f"{indent}type: {part['type']}"
        yield from _comment((inspect.getdoc(factory) or "").partition("\n\n")[0], indent)
        yield from self.keys(part_model(self.tables[table], factory), part, indent)


def _about(info: FieldInfo) -> str:
    kinds = [kind for kind in _leaves(info.annotation) if typing.get_origin(kind) is typing.Literal]
    choices = [choice for kind in kinds for choice in typing.get_args(kind)]
    listed = f"One of {', '.join(map(str, choices))}." if len(choices) > 1 else ""
    return f"{info.description or ''} {listed}".strip()


def _leaves(kind: Any) -> list[Any]:
    """An annotation and what it is made of, without keys of mappings."""
    parts = typing.get_args(kind)[1:] if typing.get_origin(kind) is dict else typing.get_args(kind)
    return [kind, *(leaf for part in parts for leaf in _leaves(part))]


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _flow(value: Any) -> str:
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).removesuffix("\n...\n").strip()
    )
