"""Checkpoints: written aside, then renamed; verified before they are believed; nothing in them is unpickled.

    <run>/checkpoints/step_00000500/  state.json, <name>.safetensors ..., manifest.json (bytes and SHA-256 of each file)

A folder without its final name is the rest of a crash and is cleared by the next save. Only rank 0 writes.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sr.errors import UserError

FORMAT = 1
Tensors = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def save(root: Path, step: int, state: Mapping[str, Any], tensors: Tensors, *, keep: int, spare: int | None) -> Path:
    """Write one checkpoint, then drop the oldest beyond `keep`, sparing step `spare` (the best one)."""
    final = root / f"step_{step:08d}"
    aside = root / f".{final.name}.tmp"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(".step_*.tmp"):
            shutil.rmtree(leftover)
        aside.mkdir()
        for name, group in tensors.items():
            save_file(
                {key: value.detach().contiguous().cpu() for key, value in group.items()}, aside / f"{name}.safetensors"
            )
        (aside / "state.json").write_text(json.dumps(dict(state)))
        files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(aside.iterdir())}
        (aside / "manifest.json").write_text(json.dumps({"format": FORMAT, "step": step, "files": files}))
        for path in aside.iterdir():
            _sync(path)
        _sync(aside)
        if final.exists():
            shutil.rmtree(final)
        os.rename(aside, final)
        _sync(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise UserError(
            f"{final}: cannot be written ({error}); earlier checkpoints are untouched: free space, run again"
        ) from None
    for old in steps(root)[:-keep]:
        if old != spare:
            shutil.rmtree(root / f"step_{old:08d}")
    return final


def steps(root: Path) -> list[int]:
    """Steps of the finished checkpoints, oldest first."""
    names = [re.fullmatch(r"step_(\d{8,})", path.name) for path in root.glob("step_*") if path.is_dir()]
    return sorted(int(name[1]) for name in names if name)


def load_newest(root: Path) -> Checkpoint | None:
    """The newest checkpoint, verified; None where there is none. Raises UserError when it is damaged."""
    found = steps(root)
    return load(root / f"step_{found[-1]:08d}") if found else None


def load(folder: Path) -> Checkpoint:
    manifest = _manifest(folder)
    tensors = {}
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise _damaged(folder, f"{name} is missing")
        if path.stat().st_size != facts["bytes"]:
            raise _damaged(folder, f"{name} has {path.stat().st_size} bytes where the manifest says {facts['bytes']}")
        if _sha256(path) != facts["sha256"]:
            raise _damaged(folder, f"{name} does not have the content that the manifest says")
        if path.suffix == ".safetensors":
            tensors[path.stem] = load_file(path)
    return Checkpoint(folder, json.loads((folder / "state.json").read_text()), tensors)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != FORMAT or not isinstance(manifest["files"], dict):
            raise _damaged(folder, f"its manifest has format {manifest['format']}, this program reads {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"manifest.json cannot be read ({error})") from None
    return manifest


def _damaged(folder: Path, reason: str) -> UserError:
    return UserError(f"{folder}: damaged, {reason}; remove that folder to continue from the checkpoint before it")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    """`hashlib.file_digest`, which Python 3.10 lacks."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Force a file or folder onto the disk: a rename must not become visible before what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
