"""The JSON schema of options files, for editors, from the same types that check them."""

import inspect
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from sr.config.registry import Factory, Table, Tables, part_model


def schema(model: type[BaseModel], tables: Tables) -> dict[str, Any]:
    """The JSON schema of a model for editors, every part spelled out from its constructor.

    Keys that a `base` may supply are not required: those of sections, and those of parts.
    """
    definitions: dict[str, Any] = {}
    for name, table in tables.items():
        rows = [_row_schema(table, kind, row, definitions) for kind, row in table.all().items()]
        definitions[f"part.{name}"] = {"anyOf": [*rows, _PLUGIN_SCHEMA, _WITHOUT_TYPE]}
    root = _inline(model.model_json_schema(), definitions)
    root["anyOf"] = [{"required": ["base"]}, {"required": root.pop("required")}]
    root["properties"]["base"] = {"type": "string", "description": "recipe or file that this file inherits from"}
    for section in root.get("$defs", {}).values():
        section.pop("required", None)
    root["$defs"] = {**root.get("$defs", {}), **_inline(definitions, definitions)}
    plain: dict[str, Any] = to_jsonable_python(root)  # defaults may be models
    return plain


_PLUGIN_SCHEMA = {  # and members of families: their parameters are checked, but not spelled out
    "type": "object",
    "properties": {"type": {"type": "string", "pattern": r".+\..+"}},
    "required": ["type"],
}

_WITHOUT_TYPE = {"type": "object", "not": {"required": ["type"]}}  # changes keys of the part in the base


def _row_schema(table: Table, kind: str, factory: Factory, definitions: dict[str, Any]) -> dict[str, Any]:
    row = part_model(table, factory).model_json_schema()
    definitions.update(row.pop("$defs", {}))
    row["properties"] = {"type": {"const": kind}, **row.get("properties", {})}
    row["required"] = ["type"]
    row["title"] = kind
    row["description"] = inspect.getdoc(factory) or ""
    return row


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    """Turn every {"$part": table} into a reference to that table's definition."""
    if isinstance(node, dict):
        if "$part" in node:
            return {"$ref": f"#/$defs/part.{node['$part']}"}
        return {key: _inline(value, definitions) for key, value in node.items()}
    return [_inline(item, definitions) for item in node] if isinstance(node, list) else node
