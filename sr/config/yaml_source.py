"""YAML with the line of every key, so that whatever is wrong with a value can be pointed at; and `--set` overrides."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml

from sr.config.registry import Path
from sr.core.errors import UserError

MAX_BYTES, MAX_DEPTH, MAX_NODES = 1 << 18, 32, 20_000


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number (YAML 1.1 wants 1.0e-4, and a silent string is a trap)."""


_FLOAT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][-+]?\d+)$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


@dataclass(frozen=True)
class Document:
    """Values as written, and the line of every key: enough to point at a mistake."""

    file: str
    values: dict[str, Any]
    lines: Mapping[Path, int]
    overrides: Mapping[Path, str]

    def where(self, path: Path) -> str:
        """`train.yml:7` or `--set losses.gan.type=hinge`: the nearest written place that leads to this key."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.overrides:
                return f"--set {self.overrides[path[:length]]}"
            if path[:length] in self.lines:
                return f"{self.file}:{self.lines[path[:length]]}"
        return f"{self.file}:1"


def read(file: str | FilePath, sets: Iterable[str] = ()) -> Document:
    """Read an options file and apply `--set a.b=value` overrides. Raises UserError with file and line."""
    try:
        with FilePath(file).open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give the path of an options file") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8 text; give the path of a YAML options file") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{file}: is larger than {MAX_BYTES} bytes; give the path of an options file")
    lines: dict[Path, int] = {}
    try:
        root = yaml.compose(text, Loader=_Loader)
        values = _value(root, (), lines, [MAX_NODES], str(file)) if root else {}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{file}:{line}  not YAML: {error.problem}; mend the line or the one above it") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{file}:1  not YAML that can be read ({error}); mend the file") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}:1  holds a {type(values).__name__}; an options file is a mapping of keys")
    document = Document(str(file), values, lines, {})
    for assignment in sets:
        document = _override(document, assignment)
    return document


def _value(node: yaml.Node, path: Path, lines: dict[Path, int], budget: list[int], file: str) -> Any:
    """Plain values of a node; notes each key's line. Bounded in depth and nodes: aliases can nest without end."""
    budget[0] -= 1
    line = node.start_mark.line + 1
    if len(path) > MAX_DEPTH or budget[0] < 0:
        raise UserError(f"{file}:{line}  nested too deep or too large; an options file needs neither: flatten it")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, i), lines, budget, file) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in mapping:
                raise UserError(f"{file}:{key_node.start_mark.line + 1}  '{key}' stands twice; keep one of them")
            here = (*path, key)
            lines[here] = key_node.start_mark.line + 1
            mapping[key] = _value(value_node, here, lines, budget, file)
        return mapping
    lines.setdefault(path, line)
    return _usable(_Loader("").construct_object(node), f"{file}:{line}")


def _usable(value: Any, where: str) -> Any:
    """The value, in which no number is nan, infinite or larger than 64 bits: nothing could be done with it."""
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            _usable(item, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}  {value} is no number to work with; write a finite one")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{where}  a whole number of {len(str(abs(value)))} digits is too large; write a smaller one")
    return value


def _override(document: Document, assignment: str) -> Document:
    dotted, equals, text = assignment.partition("=")
    path = tuple(int(step) if step.isdigit() else step for step in dotted.split("."))
    if not equals or len(path) > MAX_DEPTH or not all(str(step) for step in path):
        raise UserError(f"--set {assignment}: write key.key=value, for example --set losses.gan.type=hinge")
    try:
        value = _usable(yaml.load(text, Loader=_Loader), f"--set {assignment}")
    except yaml.YAMLError:
        value = text
    except (ValueError, RecursionError) as error:
        raise UserError(f"--set {assignment[:80]}: cannot be read ({error}); give a plain value") from None
    target: Any = document.values
    for step in path[:-1]:
        target = _descend(target, step, assignment)
    if isinstance(target, list) and not (isinstance(path[-1], int) and path[-1] < len(target)):
        raise UserError(f"--set {assignment}: the list has {len(target)} entries; give an index from 0")
    if not isinstance(target, (dict, list)):
        raise UserError(f"--set {assignment}: '{path[-2]}' is no mapping; set it as a whole")
    target[path[-1]] = value  # type: ignore[index]
    return Document(document.file, document.values, document.lines, {**document.overrides, path: assignment})


def _descend(target: Any, step: str | int, assignment: str) -> Any:
    if isinstance(target, dict):
        if not isinstance(target.get(step), (dict, list)):
            target[step] = {}
        return target[step]
    if isinstance(target, list) and isinstance(step, int) and step < len(target):
        return target[step]
    raise UserError(f"--set {assignment}: there is no '{step}' in the options to go into; check the path")
