"""The signatures of all parts as JSON, so that an options file can be checked without importing torch."""

import dataclasses
import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from sr.config import ranges
from sr.config.registry import Factory, PartOf, Table, Tables, keywords


def encode(tables: Tables) -> dict[str, Any]:
    """Return names, documentation and keyword-only parameters of all constructors. Families (`name.*`) keep no more
    than their name."""
    return {
        name: {
            "rows": {kind: None if "*" in kind else _row(row, table) for kind, row in table.rows.items()},
            "shared": {key: [_encoded(kind), default] for key, (kind, default) in table.shared.items()},
            "supplied": table.supplied,
            "positional": table.positional,
            "named": table.named,
        }
        for name, table in tables.items()
    }


def decode(encoded: Mapping[str, Any], whole: Callable[[], Tables]) -> Tables:
    """Return tables of functions with the encoded signatures, which build nothing.

    Args:
        whole: returns the real tables, to look up a member of a family.
    """
    return {
        name: Table(
            {kind: _function(name, kind, row, whole, table["positional"]) for kind, row in table["rows"].items()},
            {key: (_decoded(kind), default) for key, (kind, default) in table["shared"].items()},
            tuple(table["supplied"]),
            members=functools.partial(_members, name, whole),
            positional=table["positional"],
            named=tuple(table["named"]),
        )
        for name, table in encoded.items()
    }


def _members(table: str, whole: Callable[[], Tables]) -> Mapping[str, Factory]:
    return whole()[table].members()


def _row(factory: Factory, table: Table) -> dict[str, Any]:
    by_position = table.left_out(factory)[len(table.supplied) :]
    keys = {
        name: [_encoded(kind), *([] if default is ... else [to_jsonable_python(default)])]
        for name, (kind, default) in keywords(factory).items()
        if name not in by_position
    }
    return {"name": factory.__name__, "doc": inspect.getdoc(factory) or "", "keys": keys}


def _function(
    table: str, kind: str, row: Mapping[str, Any] | None, whole: Callable[[], Tables], positional: int
) -> Factory:
    if row is None:
        return lambda member: whole()[table].rows[kind](member)

    def stub(**values: Any) -> None: ...

    stub.__name__, stub.__doc__ = row["name"], row["doc"]
    stub.__annotations__ = {name: _decoded(key[0]) for name, key in row["keys"].items()}
    parameters = [inspect.Parameter(f"_{number}", inspect.Parameter.POSITIONAL_ONLY) for number in range(positional)]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(stub.__annotations__[name], key[1:]))
        for name, key in row["keys"].items()
    ]
    stub.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return stub


def _default(kind: Any, default: Sequence[Any]) -> Any:
    if not default:
        return inspect.Parameter.empty
    section = inspect.isclass(kind) and issubclass(kind, BaseModel)
    return kind.model_validate(default[0]) if section else default[0]


# ---- types -----------------------------------------------------------------------------------------------------------

PLAIN: dict[str, Any] = {"any": Any, "bool": bool, "int": int, "float": float, "str": str, "none": type(None)}
CONTAINERS: dict[str, Any] = {"list": list, "dict": dict, "tuple": tuple}
ANNOTATED: Any = Annotated
NAMES = {kind: name for name, kind in PLAIN.items()}


def _encoded(kind: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _annotated(inner[0], inner[1:])
    if origin is typing.Literal:
        return {"literal": inner}
    if origin in (list, dict, tuple):
        return {origin.__name__: ["..." if each is ... else _encoded(each) for each in inner]}
    if inspect.isclass(kind) and issubclass(kind, BaseModel):
        return {
            "section": [kind.__name__, kind.__doc__, {name: _field(info) for name, info in kind.model_fields.items()}]
        }
    if origin in (typing.Union, types.UnionType):
        return {"union": [_encoded(each) for each in inner]}
    return NAMES.get(kind, "any") if origin is None else "any"


def _field(info: FieldInfo) -> list[Any]:
    default = [] if info.is_required() else [to_jsonable_python(info.get_default(call_default_factory=True))]
    return [_annotated(info.annotation, (info, *info.metadata)), info.alias, *default]


def _annotated(kind: Any, notes: Sequence[Any]) -> Any:
    """Limits such as {"ge": 0}, a part, and checks of `sr.config.ranges` by their names."""
    limits: dict[str, Any] = {}
    checks = []
    for note in notes:
        if isinstance(note, PartOf):
            return {"part": [note.table, note.factory]}
        if isinstance(note, FieldInfo) and note.description:
            limits["description"] = note.description
        for limit in note.metadata if isinstance(note, FieldInfo) else [note]:
            if isinstance(limit, AfterValidator):
                checks.append(limit.func.__name__)
            else:
                names = (
                    [field.name for field in dataclasses.fields(limit)]
                    if dataclasses.is_dataclass(limit)
                    else vars(limit)
                )
                limits |= {name: getattr(limit, name) for name in names}
    return {"annotated": [_encoded(kind), limits, checks]}


def _decoded(kind: Any) -> Any:
    if isinstance(kind, str):
        return PLAIN[kind]
    ((name, inner),) = kind.items()
    if name == "part":
        return Annotated[Any, PartOf(*inner)]
    if name == "annotated":
        notes = [Field(**inner[1]), *(AfterValidator(getattr(ranges, check)) for check in inner[2])]
        whole = (_decoded(inner[0]), *notes)
        return ANNOTATED[whole]
    if name == "section":
        fields = {
            key: (_decoded(kind), Field(default[0] if default else ..., alias=alias))
            for key, (kind, alias, *default) in inner[2].items()
        }
        config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
        return create_model(inner[0], __config__=config, __doc__=inner[1], **fields)  # type: ignore[call-overload]
    if name == "literal":
        return typing.Literal[tuple(inner)]
    parts = tuple(... if each == "..." else _decoded(each) for each in inner)
    if name == "union":
        return functools.reduce(operator.or_, parts)
    return CONTAINERS[name][parts]
