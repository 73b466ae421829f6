"""Read YAML options with the line of every key, so that an error can name it; and apply an override."""

import codecs
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

import yaml

from sr.config.registry import Path
from sr.core.errors import UserError, nearest

MAX_BYTES, MAX_DEPTH, MAX_NODES = 1 << 18, 32, 20_000
MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number. YAML 1.1 requires 1.0e-4 and would silently return a string."""


_FLOAT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][-+]?\d+)$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


@dataclass(frozen=True)
class Document:
    """Values as written, with the place of every key (`file:line`) and the text of every override.

    files: the options file, its base, the base of that, ...
    """

    files: tuple[str, ...]
    values: dict[str, Any]
    places: Mapping[Path, str]
    overrides: Mapping[Path, str]

    def where(self, path: Path) -> str:
        """`train.yml:7` or `--set losses.gan.type=hinge`: the nearest written place that leads to this key."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.overrides:
                return f"--set {self.overrides[path[:length]]}"
            if path[:length] in self.places:
                return self.places[path[:length]]
        return f"{self.files[0]}:1"


def parse(file: str | FilePath) -> Document:
    """Read one file. Raises UserError with file and line."""
    try:
        with FilePath(file).open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give the path of an options file") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{file}: is larger than {MAX_BYTES} bytes; give the path of an options file")
    text = _decode(content, str(file))
    reader = _Reader(lambda line: f"{file}:{line}")
    try:
        root = yaml.compose(text, Loader=_Loader)
        values = reader.value(root, ()) if root else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{file}:{line}  not YAML: {error.problem}; correct this line or the one above it") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{file}:1  not readable as YAML ({error}); correct the file") from None
    if values is None:
        raise UserError(f"{file}:1  the file is empty; start from a copy of a recipe in options/")
    if not isinstance(values, dict):
        raise UserError(f"{file}:1  contains a {type(values).__name__}; an options file is a mapping of keys")
    return Document((str(file),), values, reader.places, {})


def _decode(content: bytes, file: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark, which YAML allows as well."""
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content[: error.start].count(b"\n") + 1, content[error.start]
        guess = "damaged UTF-16" if wide else f"not UTF-8 (byte 0x{byte:02x}; Latin-1 or Windows-1252?)"
        raise UserError(f"{file}:{line}  the text is {guess}; save the file as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{file}:1  contains null bytes, so it is binary or UTF-16 without a mark; save it as UTF-8")
    return text


# ---- values ----------------------------------------------------------------------------------------------------------


class _Reader:
    """Turn YAML nodes into plain values and note the place of each key.

    Depth and number of nodes are bounded: aliases can expand without limit. place: line number -> text for errors.
    """

    def __init__(self, place: Callable[[int], str]) -> None:
        self._place, self._nodes = place, 0
        self.places: dict[Path, str] = {}

    def value(self, node: yaml.Node, path: Path) -> Any:
        self._nodes += 1
        line = node.start_mark.line + 1
        if len(path) > MAX_DEPTH or self._nodes > MAX_NODES:
            raise UserError(f"{self._place(line)}  nested too deep or too large; flatten the options")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        self.places.setdefault(path, self._place(line))
        return self._scalar(_Loader("").construct_object(node), line)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for source in reversed(list(self._merged(node))):  # the first of several wins
            mapping.update(self._mapping(source, path))
        seen = set()
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == MERGE:
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{self._place(line)}  a key is a list or a mapping; write a word, or quote the value")
            key = str(key_node.value)
            if key in seen:
                raise UserError(f"{self._place(line)}  '{key}' occurs twice; keep one of them")
            seen.add(key)
            here = (*path, key)
            self.places[here] = self._place(line)
            mapping[key] = self.value(value_node, here)
        return mapping

    def _merged(self, node: yaml.MappingNode) -> Iterator[yaml.MappingNode]:
        """The mappings that the merge keys (`<<: *name`) of a mapping refer to."""
        for key_node, value_node in node.value:
            if key_node.tag == MERGE:
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in sources:
                    if not isinstance(source, yaml.MappingNode):
                        line = key_node.start_mark.line + 1
                        raise UserError(f"{self._place(line)}  '<<' merges mappings only; write <<: *name of a mapping")
                    self._nodes += 1
                    yield source

    def _scalar(self, value: Any, line: int) -> Any:
        """The value, with `~` and variables expanded. Numbers are finite and have at most 64 bits."""
        if isinstance(value, str):
            return expand(value, self._place(line))
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{self._place(line)}  {value} is not a usable number; write a finite one")
        if isinstance(value, int) and abs(value) >= 2**63:
            digits = len(str(abs(value)))
            raise UserError(f"{self._place(line)}  an integer of {digits} digits is too large; write a smaller one")
        return value


_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")


def expand(text: str, where: str) -> str:
    """`~/hr` and `$DATA/hr` or `${DATA}/hr` as full paths; `list:` in front stays, `pipe:` is left to the shell.

    Raises UserError for a variable that is not set: a folder of that name would be created or not be found.
    """
    if text.startswith("pipe:") or not ("$" in text or text.startswith(("~", "list:~"))):
        return text

    def content(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise UserError(f"{where}  '{text}': the environment variable {name} is not set; set it, or write the path")
        return os.environ[name]

    prefix = "list:" if text.startswith("list:") else ""
    path = _VARIABLE.sub(content, text.removeprefix(prefix))
    full = os.path.expanduser(path)
    if path.startswith("~") and full == path:
        raise UserError(f"{where}  '{text}': no such user; write the path, or ./{path} for a file of that name")
    return prefix + full


# ---- overrides -------------------------------------------------------------------------------------------------------


def override(document: Document, assignment: str) -> Document:
    """Apply an override `a.b=value`; null removes a key."""
    dotted, equals, text = assignment.partition("=")
    steps = dotted.split(".")
    if not equals or len(steps) > MAX_DEPTH or not all(steps):
        raise UserError(f"--set {assignment}: write key.key=value, for example --set losses.gan.type=hinge")
    if not text:
        raise UserError(f"--set {assignment}: the value is missing; write a value, or null to remove the key")
    value = _parsed(text, assignment)
    target, path = _target(document.values, steps, assignment)
    if value is None and path[-1] not in target and (hint := nearest(steps[-1], target, cutoff=0.8)):
        raise UserError(f"--set {assignment}: there is no '{steps[-1]}' to remove.{hint}")
    target[path[-1]] = value
    places, overrides = (
        {inner: note for inner, note in noted.items() if inner[: len(path)] != path}
        for noted in (document.places, document.overrides)
    )
    return replace(document, places=places, overrides={**overrides, path: assignment})


def _parsed(text: str, assignment: str) -> Any:
    where = f"--set {assignment[:80]}"
    reader = _Reader(lambda line: where)
    try:
        node = yaml.compose(text, Loader=_Loader)
        return reader.value(node, ()) if node else None
    except yaml.YAMLError:
        return expand(text, where)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: cannot be read ({error}); give a plain value") from None


def _target(values: dict[str, Any], steps: list[str], assignment: str) -> tuple[Any, Path]:
    """The mapping or list that the last step is a key or index of, and the whole path."""
    target: Any = values
    path: list[str | int] = []
    for number, step in enumerate(steps):
        if isinstance(target, list):
            index = int(step) if re.fullmatch(r"\d{1,6}", step, re.ASCII) else len(target)
            if index >= len(target):
                raise UserError(f"--set {assignment}: '{step}' is not one of {len(target)} entries; count from 0")
            path.append(index)
        else:
            path.append(step)
        if number + 1 < len(steps):
            inner = target[index] if isinstance(target, list) else target.get(step)
            if not isinstance(inner, (dict, list)):
                inner = target[path[-1]] = {}
            target = inner
    return target, tuple(path)


def drop_removed_entries(document: Document) -> Document:
    """Drop the list entries that an override set to null. Keys set to null are left to the check by type."""
    entries = [path for path in document.overrides if isinstance(path[-1], int)]
    for path in sorted(entries, key=lambda path: (len(path), path[-1]), reverse=True):  # inner and later ones first
        target: Any = document.values
        index: Any = path[-1]
        try:
            for step in path[:-1]:
                target = target[step]
            removed = isinstance(target, list) and target[index] is None
        except (KeyError, IndexError, TypeError):  # a later override replaced what it was in
            continue
        if removed:
            del target[index]
            places, overrides = _without_entry(document.places, path), _without_entry(document.overrides, path)
            document = replace(document, places=places, overrides=overrides)
    return document


def _without_entry(noted: Mapping[Path, Any], entry: Path) -> dict[Path, Any]:
    """Paths after a list entry is dropped: those of the entries behind it move up by one."""
    depth, index = len(entry) - 1, entry[-1]
    kept = {}
    for path, note in noted.items():
        step = path[depth] if path[:depth] == entry[:depth] and len(path) > depth else None
        if isinstance(step, int) and isinstance(index, int):
            if step == index:
                continue
            path = (*path[:depth], step - (step > index), *path[depth + 1 :])
        kept[path] = note
    return kept


# ---- origins ---------------------------------------------------------------------------------------------------------


def with_origins(values: dict[str, Any], document: Document) -> str:
    """Options as YAML, with a comment where each value was written. What has no comment is a default."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10**6)  # a comment ends the line's value
    lines, reader = text.splitlines(), _Reader(str)
    root = yaml.compose(text, Loader=_Loader)
    assert root is not None
    reader.value(root, ())
    for path, line in reader.places.items():
        at, written = int(line) - 1, _written(document.values, path)
        if written is not None and "\n" not in str(written) and not lines[at].endswith(":"):
            origin = document.where(path)
            lines[at] += f"  # {origin.split('=')[0] if origin.startswith('--set ') else origin}"
    return "\n".join(lines) + "\n"


def _written(values: Any, path: Path) -> Any:
    """The value at a path of what was written, or None."""
    for step in path:
        keys = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
        if step not in keys:
            return None
        values = values[step]
    return values
