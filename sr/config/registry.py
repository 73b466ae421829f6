"""Build {type: name, **kwargs}. The signature of a constructor is the schema of its options.

A *part* is a mapping with a `type`. The type is a row of a table, or the dotted path of a class outside of `sr`. The
parameters of its constructor are the keys of the part. A new part needs its class and one row; options,
checks, the JSON schema and the documentation follow from the signature.
"""

import functools
import importlib
import inspect
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import core_schema, to_jsonable_python

from sr.core.errors import UserError, first_line, nearest

Path = tuple[str | int, ...]
Factory = Callable[..., Any]


@dataclass(frozen=True)
class PartOf:
    """Annotation: this option is a part out of the table of that name, as in `Annotated[Stage, PartOf("degrade")]`.

    factory: the constructor receives a function without arguments that builds a new one at each call.
    """

    table: str
    factory: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema())

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"$part": self.table}


@dataclass(frozen=True, eq=False)  # hashed as itself: its rows are a dict
class Table:
    """The constructors of one kind of part.

    Attributes:
        rows: name -> constructor. A row `name.*` is a family: a function from a member's name to its constructor.
        shared: keys that every part of the table accepts in addition to its own, as name -> (type, default).
        supplied: parameters that the program passes, not the options file.
        members: returns the types and constructors of families that can be listed.
        named: types of families to propose for a name that does not exist.
        positional: how many first parameters of a constructor are passed by position.
    """

    rows: Mapping[str, Factory]
    shared: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    supplied: tuple[str, ...] = ()
    members: Callable[[], Mapping[str, Factory]] = dict
    positional: int = 0
    named: tuple[str, ...] = ()

    def left_out(self, factory: Factory) -> tuple[str, ...]:
        """Return the parameters that options cannot set."""
        return (*self.supplied, *list(inspect.signature(factory).parameters)[: self.positional])

    def all(self) -> dict[str, Factory]:
        """Return rows, without families, and members."""
        return {kind: row for kind, row in self.rows.items() if "*" not in kind} | dict(self.members())


Tables = Mapping[str, Table]


class Problem(NamedTuple):
    """An error in the options: its place, and a sentence with the cause and the fix."""

    path: Path
    message: str


def find(table: Table, name: str, *, plugins: bool = True) -> Factory:
    """The constructor behind a type's name. Raises UserError with what is known and the nearest spelling."""
    family, dot, member = name.partition(".")
    if dot and f"{family}.*" in table.rows:
        return table.rows[f"{family}.*"](member)
    if name in table.rows:
        return table.rows[name]
    if dot:
        return _plugin(name, allowed=plugins)
    raise UserError(f"no '{name}' here. Known: {', '.join(table.rows)}.{nearest(name, [*table.rows, *table.named])}")


def _plugin(name: str, *, allowed: bool) -> Factory:
    if not allowed:
        raise UserError(f"'{name}' is not part of sr, and --no-plugins refuses such types; choose a built-in type")
    module, _, attribute = name.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # it is a user's file, and may be wrong in any way
        reason = str(error) if isinstance(error, ImportError | AttributeError) else first_line(error)
        raise UserError(
            f"cannot import '{name}' ({reason}); put its package on PYTHONPATH or correct the name"
        ) from None
    try:
        model_of(factory)
    except (TypeError, ValueError, NameError):
        raise UserError(
            f"'{name}' is not a class or function with a signature; name one that builds the part"
        ) from None
    return factory


@functools.cache
def model_of(factory: Factory, leave_out: tuple[str, ...] = ()) -> type[BaseModel]:
    """A strict pydantic model of the parameters that a constructor takes by keyword."""
    fields: dict[str, Any] = {name: key for name, key in keywords(factory).items() if name not in leave_out}
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    name = getattr(factory, "__name__", "part")
    return create_model(name, __config__=config, **fields)


def keywords(factory: Factory) -> dict[str, tuple[Any, Any]]:
    """Type and default (`...` where there is none) of the parameters that a constructor takes by keyword.

    A default that is code, such as `norm_layer=nn.LayerNorm`, is left out: options hold data only.
    """
    try:
        hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
    except NameError:  # imported for type checkers only
        hints = {}
    kinds = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    found = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        if parameter.kind in kinds and not callable(default):
            found[name] = (hints.get(name, Any), default)
    return found


@functools.cache
def part_model(table: Table, factory: Factory, *, inner: bool = False) -> type[BaseModel]:
    """`model_of` as the options see it: without the supplied parameters, and with the table's shared keys.

    inner: the part is nested in a part of the same table, where the shared keys are not read.
    """
    base = model_of(factory, table.left_out(factory))
    fields: dict[str, Any] = {} if inner else dict(table.shared)
    return create_model(base.__name__, __base__=base, **fields) if fields else base


def check(
    part: Any, name: str, tables: Tables, path: Path = (), *, plugins: bool = True, outer: str = ""
) -> list[Problem]:
    """Return all errors in a part and the parts nested in it. outer: the table of the part around it."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return [Problem(path, f"give a mapping with a 'type'. Known types: {', '.join(tables[name].rows)}.")]
    try:
        factory = find(tables[name], part["type"], plugins=plugins)
    except UserError as error:
        return [Problem((*path, "type"), str(error))]
    values = {key: value for key, value in part.items() if key != "type"}
    model = part_model(tables[name], factory, inner=name == outer)
    problems = check_model(model, values, tables, path, owner=part["type"], plugins=plugins, outer=name)
    for key in part.keys() - values.keys() - {"type"}:  # nulls
        del part[key]
    return problems


def check_model(
    model: type[BaseModel],
    values: Any,
    tables: Tables,
    path: Path = (),
    *,
    owner: str = "",
    plugins: bool = True,
    outer: str = "",
) -> list[Problem]:
    """Return all errors in `values` for a model, and in every part nested in them.

    A null where the model takes none means that the key is left out: it is removed from `values`.
    """
    empty = _drop_nulls(model, values)
    problems = [_sentence(model, details, path, owner, empty) for details in _errors(model, values)]
    for name, part, where in parts_in(model, values, path):
        problems += check(part, name, tables, where, plugins=plugins, outer=outer)
    return problems


def _errors(model: type[BaseModel], values: Any) -> list[Any]:
    try:
        model.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        return [found for found in error.errors() if not _other_branch(found)]
    return []


def _other_branch(found: Any) -> bool:
    """Whether an error is about a branch of a union that the value was not meant for: text or a container."""
    container = isinstance(found.get("input"), Mapping | list)
    branch = str(found["loc"][-1]) if found["loc"] else ""
    return container if branch == "str" else branch.startswith(("list[", "dict[")) and not container


def _drop_nulls(model: type[BaseModel], values: Any) -> set[Path]:
    """Remove, in place, the keys whose value is null and may not be; returns where they were."""
    dropped: set[Path] = set()
    for details in _errors(model, values):
        if details["type"] == "extra_forbidden" or details.get("input", ...) is not None:
            continue
        target, found = values, []
        for step in details["loc"]:  # its last steps may be branches of a union, which are not keys
            if not isinstance(target, Mapping) or target.get(step) is None:
                break
            target = target[step]
            found.append(step)
        if isinstance(target, dict) and step in target:
            del target[step]
            dropped.add((*found, step))
    return dropped


def parts_in(model: type[BaseModel], values: Any, path: Path) -> Iterator[tuple[str, Any, Path]]:
    """Yield (table, part, path) of every part in the values of a model, also in lists, mappings and sections."""
    if isinstance(values, Mapping):
        extra = typing.get_args(model.__annotations__.get("__pydantic_extra__"))[1:]
        for key, value in values.items():
            info = model.model_fields.get(key)
            if value is not None:
                yield from _parts((info.annotation, *info.metadata) if info else extra, value, (*path, key))


def _parts(annotations: tuple[Any, ...], value: Any, path: Path) -> Iterator[tuple[str, Any, Path]]:
    for annotation in annotations:
        if isinstance(annotation, PartOf):
            yield annotation.table, value, path
        elif inspect.isclass(annotation) and issubclass(annotation, BaseModel):
            yield from parts_in(annotation, value, path)
        elif isinstance(value, Mapping) and typing.get_origin(annotation) is dict:
            for key, item in value.items():
                yield from _parts(typing.get_args(annotation)[1:], item, (*path, key))
        elif isinstance(value, list) and typing.get_origin(annotation) is list:
            for number, item in enumerate(value):
                yield from _parts(typing.get_args(annotation), item, (*path, number))
        elif _is_union(annotation) and not isinstance(value, Mapping | list):
            continue  # another branch of the union takes plain values; pydantic has checked which
        elif typing.get_args(annotation) and typing.get_origin(annotation) not in (dict, list, typing.Literal):
            yield from _parts(typing.get_args(annotation), value, path)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def signature(model: type[BaseModel]) -> str:
    """Return the keys of a part with their defaults in one line, such as `num_feat=64, skip=true`."""
    shown = []
    for name, info in model.model_fields.items():
        default = info.get_default()
        plain = info.is_required() or default is None or isinstance(default, BaseModel)
        shown.append(name if plain else f"{name}={json.dumps(default, default=str)}")
    return ", ".join(shown) or "nothing"


def _sentence(model: type[BaseModel], details: Any, path: Path, owner: str, empty: set[Path]) -> Problem:
    where = (*path, *_clean(details["loc"]))
    holder = _holder(model, details["loc"])
    name = owner if holder is model and owner else ".".join(map(str, where[:-1])) or "the file"
    key, given = where[-1] if where else "", details.get("input")
    if details["type"] == "extra_forbidden":
        known = list(holder.model_fields)
        return Problem(where, f"{name} takes no '{key}'. It takes {signature(holder)}.{nearest(str(key), known)}")
    if details["type"] == "missing" and tuple(details["loc"]) in empty:
        return Problem(where, "is required but empty; give it a value, or indent its keys below it")
    if details["type"] == "missing":
        return Problem(where[:-1], f"{name} needs '{key}'. It takes {signature(holder)}.")
    if details["type"] == "string_type" and isinstance(given, bool | int | float):
        kind = "true or false" if isinstance(given, bool) else "a number"
        return Problem(where, f'is text, but {json.dumps(given)} is read as {kind}; write it in quotes ("...")')
    hint = ""
    if details["type"] == "literal_error":
        hint = nearest(str(given), str(details["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", "))
    return Problem(where, f"{details['msg']}; given {json.dumps(given, default=str)}.{hint}")


def _clean(location: Sequence[str | int]) -> Path:
    """pydantic's location without the names of union branches (they are its own, not the user's keys)."""
    steps = location[:-1] if location[-1:] == ("str",) else location
    return tuple(step for step in steps if isinstance(step, int) or step.replace("_", "").isalnum())


def _holder(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel]:
    """The model that owns the last step of a location."""
    for step in location[:-1]:
        info = model.model_fields.get(str(step))
        inner = [a for a in leaves(info.annotation)] if info else []
        model = next((a for a in inner if inspect.isclass(a) and issubclass(a, BaseModel)), model)
    return model


def leaves(annotation: Any) -> list[Any]:
    """Return an annotation and all that is inside of it."""
    return [annotation, *(leaf for inner in typing.get_args(annotation) for leaf in leaves(inner))]


def make(part: Mapping[str, Any], name: str, tables: Tables, *args: Any, plugins: bool = True, **supplied: Any) -> Any:
    """Build a checked part, innermost first. `supplied` fills what it, or parts of the same table inside, left out."""
    table = tables[name]
    factory = find(table, part["type"], plugins=plugins)
    model = model_of(factory)
    values = {key: value for key, value in part.items() if key != "type" and key not in table.shared}
    typed = part_model(table, factory).model_validate_json(json.dumps(values), strict=True)
    kwargs = {key: getattr(typed, key) for key in values}
    for key, info in model.model_fields.items():
        if key in kwargs:
            build = functools.partial(_nested, tables=tables, plugins=plugins, supplied={name: supplied})
            kwargs[key] = _build((info.annotation, *info.metadata), kwargs[key], build)
        elif key in supplied:
            kwargs[key] = supplied[key]
    try:
        return factory(*args, **kwargs)
    except (ValueError, OverflowError, ZeroDivisionError, MemoryError, RuntimeError) as error:
        if part["type"] not in table.rows:
            raise  # the author of a plugin needs the traceback
        given = json.dumps(values)
        raise UserError(f"{part['type']} cannot be made of {given} ({first_line(error)}); change these") from None


def _nested(
    part: Mapping[str, Any], kind: PartOf, *, tables: Tables, plugins: bool, supplied: Mapping[str, dict[str, Any]]
) -> Any:
    build = functools.partial(make, part, kind.table, tables, plugins=plugins, **supplied.get(kind.table, {}))
    return build if kind.factory else build()


def _build(annotations: tuple[Any, ...], value: Any, build: Callable[[Mapping[str, Any], PartOf], Any]) -> Any:
    """The value with every part inside it built."""
    for annotation in annotations:
        inner, origin = typing.get_args(annotation), typing.get_origin(annotation)
        if isinstance(annotation, PartOf) and isinstance(value, Mapping):
            return build(value, annotation)
        if origin is list and isinstance(value, list):
            return [_build(inner, item, build) for item in value]
        if inner and origin not in (list, dict, typing.Literal):
            value = _build(inner, value, build)
    return value


def fill(model: type[BaseModel], values: Mapping[str, Any], tables: Tables, *, plugins: bool = True) -> None:
    """Fill in, in place, the default of every key that the parts in `values` omit."""
    for name, part, _ in parts_in(model, values, ()):
        own = part_model(tables[name], find(tables[name], part["type"], plugins=plugins))
        for key, info in own.model_fields.items():
            default = info.get_default(call_default_factory=True)
            if not info.is_required() and default is not None:
                part.setdefault(key, to_jsonable_python(default))
        fill(own, part, tables, plugins=plugins)
