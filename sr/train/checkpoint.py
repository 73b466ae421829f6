"""Checkpoints: written aside, then renamed; verified before they are believed; nothing in them is unpickled.

    <run>/checkpoints/step_00000500/  state.json, <name>.safetensors ..., manifest.json (bytes and CRC-32 of each file)

What is in it does not depend on how many processes wrote it, so any number may continue. A folder named
`.step_*.tmp` is the rest of a crash and is cleared by the next save. Only rank 0 writes.
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
    folder: Path
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def write(
    root: Path, step: int, state: Mapping[str, Any], tensors: Mapping[str, Snapshot], *, keep: int, spare: int | None
) -> Path:
    """Write one checkpoint, then drop the oldest beyond `keep`, sparing step `spare` (the best one).

    Killed at any moment, it leaves those before it as they were: for a while there are keep + 1 of them on the disk.
    """
    final = _folder(root, step)
    aside = final.with_name(f".{final.name}.tmp")
    try:
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(".step_*.tmp"):
            shutil.rmtree(leftover)
        aside.mkdir()
        files = {f"{name}.safetensors": group.write(aside / f"{name}.safetensors") for name, group in tensors.items()}
        files["state.json"] = host_snapshot.write(aside / "state.json", json.dumps(dict(state)).encode())
        facts = {name: {"bytes": (aside / name).stat().st_size, "crc32": digest} for name, digest in files.items()}
        manifest = {"format": FORMAT, "step": step, "files": facts}
        host_snapshot.write(aside / "manifest.json", json.dumps(manifest).encode())
        _sync(aside)
        going = [_retire(final)] if final.exists() else []  # the same step once more
        os.rename(aside, final)
        _sync(root)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise UserError(
            f"{final}: cannot be written ({error}); earlier checkpoints are untouched: free space, run again"
        ) from None
    going += [_retire(_folder(root, old)) for old in steps(root)[:-keep] if old != spare]
    for folder in going:
        shutil.rmtree(folder)
    return final


def steps(root: Path) -> list[int]:
    """Steps of the finished checkpoints, oldest first."""
    names = [re.fullmatch(r"step_(\d{8,})", path.name) for path in root.glob("step_*") if path.is_dir()]
    return sorted(int(name[1]) for name in names if name)


def load_newest(root: Path, *, fallback: bool = False) -> Checkpoint | None:
    """The newest checkpoint, verified, the same on all ranks; None where there is none. Collective.

    Before anyone reads it, the first rank of each node compares every byte with the manifest, the others sizes alone:
    on 64 GPUs of 8 nodes, 8 readings. Raises UserError when it is damaged; with `fallback` it is set aside
    instead, and the one before it is looked at.
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
                f"{folder}: damaged, {reason}; set save.fallback: true to continue from the newest good checkpoint, "
                "or remove that folder"
            )
        comm.on_main(lambda folder=folder, reason=reason: _set_aside(folder, reason))  # type: ignore[misc]
    if seen[0]:
        raise UserError(f"{root}: not one of its checkpoints is whole; use another `name`, or remove it to start anew")
    return None


def load(folder: Path) -> Checkpoint:
    """A checkpoint as it is; see `damage` for whether to believe it."""
    try:
        names = json.loads((folder / "manifest.json").read_text())["files"].keys() - {"state.json"}
        tensors = {Path(name).stem: load_file(folder / name) for name in sorted(names)}
        return Checkpoint(folder, dict(json.loads((folder / "state.json").read_text())), tensors)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be read ({str(error)[:200]}); remove that folder") from None


def progress(state: Mapping[str, Any]) -> tuple[int, int, int, dict[str, Any]]:
    """(step, consumed, bad, best) of a run's state. Raises ValueError where they are not what they must be."""
    numbers = [state.get(name) for name in ("step", "consumed", "bad")]
    best = state.get("best")
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError(f"step, consumed and bad are {numbers}")
    if not isinstance(best, dict) or not (not best or {"step", "value", "metric"} <= best.keys()):
        raise ValueError(f"best is {best}")
    return (*numbers, best)  # type: ignore[return-value]


def damage(folder: Path, *, content: bool = True) -> str | None:
    """What is wrong with a checkpoint, as its manifest has it; None where nothing is. content=False: sizes alone."""
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
                return f"{name} has {size} bytes where the manifest says {facts['bytes']}"
            if content and _crc32(folder / name) != facts["crc32"]:
                return f"{name} does not have the content that the manifest says"
    except OSError as error:
        return f"{Path(error.filename or folder).name} cannot be read ({error.strerror})"
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"manifest.json cannot be understood ({type(error).__name__}: {error})"
    return None


def _set_aside(folder: Path, reason: str) -> None:
    """Out of the way of the run, which will come to that step again; for a person to look at and to remove."""
    aside = folder.with_name(f"damaged_{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        os.rename(folder, aside)
    except OSError as error:
        raise UserError(f"{folder}: damaged, {reason}; it cannot be set aside ({error}): remove it") from None
    print(f"{folder}: damaged, {reason}; passed over, it is now {aside.name}", flush=True)


def _folder(root: Path, step: int) -> Path:
    return root / f"step_{step:08d}"


def _retire(folder: Path) -> Path:
    """Its new name, to be removed under: a kill must not leave half a checkpoint under its own."""
    going = folder.with_name(f".{folder.name}.old.tmp")
    os.rename(folder, going)
    return going


def _crc32(path: Path) -> str:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(host_snapshot.CHUNK):
            crc = zlib.crc32(chunk, crc)
    return f"{crc:08x}"


def _sync(path: Path) -> None:
    """Force a folder onto the disk: a rename must not become visible before what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
