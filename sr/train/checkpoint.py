"""Checkpoints: written atomically, verified before they are loaded, and without pickled content.

    <run>/checkpoints/step_00000500/  state.json, <name>.safetensors ..., manifest.json (bytes and CRC-32 of each file)

The content does not depend on the number of processes that wrote it, so any number may resume. A folder named
`.step_*.tmp` is left by a crash and removed by the next save. Only rank 0 writes.
"""

import json
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sr.core.errors import UserError
from sr.distributed import comm
from sr.train import host_snapshot
from sr.train.host_snapshot import Snapshot

FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint. state: the content of state.json. tensors: by file and name."""

    folder: Path
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def write(
    root: Path, step: int, state: Mapping[str, Any], tensors: Mapping[str, Snapshot], *, keep: int, spare: int | None
) -> Path:
    """Write one checkpoint, then remove the oldest beyond `keep`, except that of step `spare` (the best one).

    A kill at any moment leaves the earlier checkpoints intact; for this, the disk holds keep + 1 of them for a while.
    Raises UserError where it cannot be written.
    """
    final = _folder(root, step)
    scratch = final.with_name(f".{final.name}.tmp")
    try:
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(".step_*.tmp"):
            shutil.rmtree(leftover)
        scratch.mkdir()
        files = {f"{name}.safetensors": group.write(scratch / f"{name}.safetensors") for name, group in tensors.items()}
        files["state.json"] = host_snapshot.write(scratch / "state.json", json.dumps(dict(state)).encode())
        facts = {name: {"bytes": (scratch / name).stat().st_size, "crc32": digest} for name, digest in files.items()}
        manifest = {"format": FORMAT, "step": step, "files": facts}
        host_snapshot.write(scratch / "manifest.json", json.dumps(manifest).encode())
        _sync(scratch)
        retired = [_retire(final)] if final.exists() else []  # the same step was saved before
        os.rename(scratch, final)
        _sync(root)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise UserError(
            f"{final}: cannot be written ({error}); earlier checkpoints are untouched: free space, then resume"
        ) from None
    retired += [_retire(_folder(root, old)) for old in steps(root)[:-keep] if old != spare]
    for folder in retired:
        shutil.rmtree(folder)
    return final


def steps(root: Path) -> list[int]:
    """Return the steps of the finished checkpoints, oldest first."""
    names = [re.fullmatch(r"step_(\d{8,})", path.name) for path in root.glob("step_*") if path.is_dir()]
    return sorted(int(name[1]) for name in names if name)


def load_newest(root: Path, *, fallback: bool = False) -> Checkpoint | None:
    """Load the newest checkpoint, verified and the same on all ranks; None where there is none. Collective.

    Before it is loaded, the first rank of each node compares contents with the manifest, the other ranks compare sizes:
    64 GPUs on 8 nodes read it 8 times. Raises UserError when it is damaged; with `fallback`, it is renamed and the one
    before it is tried.
    """
    seen = comm.gather(steps(root))
    if any(found != seen[0] for found in seen):
        newest = [found[-1] if found else None for found in seen]
        raise UserError(f"{root}: ranks see different checkpoints (newest {newest}); put `out` on a shared disk")
    for step in reversed(seen[0]):
        folder = _folder(root, step)
        reason = next(filter(None, comm.gather(damage(folder, content=comm.leads_node()))), None)
        if reason is None:
            return load(folder)
        if not fallback:
            raise UserError(
                f"{folder}: damaged, {reason}; set save.fallback: true to resume from the newest good checkpoint, "
                "or remove that folder"
            )
        comm.on_main(lambda folder=folder, reason=reason: _rename_damaged(folder, reason))  # type: ignore[misc]
    if seen[0]:
        raise UserError(f"{root}: all checkpoints are damaged; remove the folder to start again")
    return None


def load(folder: Path) -> Checkpoint:
    """Load a checkpoint without verification; see `damage`. Raises UserError."""
    try:
        names = json.loads((folder / "manifest.json").read_text())["files"].keys() - {"state.json"}
        tensors = {Path(name).stem: load_file(folder / name) for name in sorted(names)}
        return Checkpoint(folder, dict(json.loads((folder / "state.json").read_text())), tensors)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be read ({str(error)[:200]}); remove that folder") from None


def progress(state: Mapping[str, Any]) -> tuple[int, int, int, dict[str, Any]]:
    """Return (step, consumed, bad, best) of a run's state. Raises ValueError for wrong types or values."""
    numbers = [state.get(name) for name in ("step", "consumed", "bad")]
    best = state.get("best")
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError(f"step, consumed and bad are {numbers}")
    if not isinstance(best, dict) or not (not best or {"step", "value", "metric"} <= best.keys()):
        raise ValueError(f"best is {best}")
    return (*numbers, best)  # type: ignore[return-value]


def damage(folder: Path, *, content: bool = True) -> str | None:
    """Compare a checkpoint with its manifest and return what differs, or None. content=False: compare sizes only."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            return f"its manifest has format {manifest['format']}, this version reads format {FORMAT}"
        if _folder(folder.parent, manifest["step"]) != folder:
            return f"its manifest is of step {manifest['step']}"
        if "state.json" not in manifest["files"]:
            return "its manifest does not name state.json"
        for name, facts in sorted(manifest["files"].items()):
            if Path(name).name != name:
                return f"its manifest names {name}, which is not in the folder"
            if not (folder / name).is_file():
                return f"{name} is missing"
            size = (folder / name).stat().st_size
            if size != facts["bytes"]:
                return f"{name} has {size} bytes where the manifest has {facts['bytes']}"
            if content and _crc32(folder / name) != facts["crc32"]:
                return f"{name} does not match its checksum in the manifest"
    except OSError as error:
        return f"{Path(error.filename or folder).name} cannot be read ({error.strerror})"
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"manifest.json is invalid ({type(error).__name__}: {error})"
    return None


def _rename_damaged(folder: Path, reason: str) -> None:
    """Rename a damaged checkpoint, because the run will save that step again; the user can inspect and remove it."""
    renamed = folder.with_name(f"damaged_{folder.name}")
    shutil.rmtree(renamed, ignore_errors=True)
    try:
        os.rename(folder, renamed)
    except OSError as error:
        raise UserError(f"{folder}: damaged, {reason}; it cannot be renamed ({error}): remove it") from None
    print(f"{folder}: damaged, {reason}; skipped and renamed to {renamed.name}", flush=True)


def _folder(root: Path, step: int) -> Path:
    return root / f"step_{step:08d}"


def _retire(folder: Path) -> Path:
    """Rename a checkpoint before it is removed: a kill must not leave a part of it under its name."""
    retired = folder.with_name(f".{folder.name}.old.tmp")
    os.rename(folder, retired)
    return retired


def _crc32(path: Path) -> str:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(host_snapshot.CHUNK):
            crc = zlib.crc32(chunk, crc)
    return f"{crc:08x}"


def _sync(path: Path) -> None:
    """fsync a folder: a rename must not reach the disk before the files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
