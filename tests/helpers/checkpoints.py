"""Small checkpoints, and ways to damage them."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sr.train import checkpoint
from sr.train.host_snapshot import Snapshot

GROUP = {"w": torch.arange(6.0).view(2, 3), "step": torch.tensor(7)}


def taken(group: dict[str, Tensor]) -> Snapshot:
    made = Snapshot()
    made.take(group)
    return made


def put(root: Path, step: int, *, keep: int = 9, spare: int | None = None, value: float = 0.0) -> Path:
    """A small checkpoint with `value` in its weights."""
    groups = {"ema": taken(GROUP), "generator": taken({key: tensor + value for key, tensor in GROUP.items()})}
    return checkpoint.write(root, step, {"step": step}, groups, keep=keep, spare=spare)


def manifest(folder: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
