"""Read an options file with all files that it inherits from by `base: NAME`, and apply `--set` overrides.

`base` names a recipe, or a file relative to the one it stands in. Mappings are merged key by key. A value, a list, or a
mapping with another `type` replaces what the base has, and null removes it.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

from sr.config.recipes import folder, names
from sr.config.registry import Path
from sr.config.yaml_source import Document, drop_removed_entries, override, parse
from sr.core.errors import UserError, nearest


def read(file: str | FilePath, sets: Iterable[str] = ()) -> Document:
    """Read an options file, merge it into its base, and apply `--set a.b=value` overrides.

    Raises:
        UserError: with file and line.
    """
    document = _read(file, ())
    for assignment in sets:
        document = override(document, assignment)
    return drop_removed_entries(document)


def _read(file: str | FilePath, inner: tuple[FilePath, ...]) -> Document:
    """inner: the files that inherit from this one, resolved."""
    document = parse(file)
    if "base" not in document.values:
        return document
    where, name, here = document.where(("base",)), document.values.pop("base"), FilePath(file).resolve()
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}  base: is not a name; give a recipe, or the path of an options file")
    path = FilePath(file).parent / name
    if not path.is_file():
        if name not in names():
            hint = nearest(name, names()) or " Give a recipe, or a path relative to this file"
            raise UserError(f"{where}  base: there is no recipe and no file '{name}'.{hint}")
        path = folder() / f"{name}.yml"
    if path.resolve() in (*inner, here):
        raise UserError(f"{where}  base: {name} leads back to itself; remove one `base`")
    return _merged(_read(path, (*inner, here)), document)


def _merged(base: Document, own: Document) -> Document:
    """`own` merged into `base`; each key keeps the place where it was written."""
    replaced: set[Path] = set()

    def merge(target: dict[str, Any], values: dict[str, Any], path: Path) -> None:
        for key, value in values.items():
            here, before = (*path, key), target.get(key)
            if value is None and key not in target and (hint := nearest(key, target, cutoff=0.8)):
                raise UserError(f"{own.where(here)}  {'.'.join(map(str, here))}: the base has none to remove.{hint}")
            if isinstance(before, dict) and isinstance(value, dict) and value.get("type") in (None, before.get("type")):
                merge(before, value, here)
                continue
            replaced.add(here)
            if value is None and key in target:
                del target[key]
            else:
                target[key] = value

    merge(base.values, own.values, ())
    places = {
        path: place
        for path, place in base.places.items()
        if not any(path[:length] in replaced for length in range(1, len(path) + 1))
    }
    return replace(own, values=base.values, places={**places, **own.places}, files=(*own.files, *base.files))
