"""What a run wrote: its models and the scores of its validations, as the files in its folder state them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sr.evaluate.metrics import METRICS


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        folder: of the run, with `models`, `checkpoints`, `tensorboard`, `log.jsonl` and `options.yml`.
        model: the newest generator.
        best: the generator with the best validation score; None without validation.
        step: that of `best`, else of `model`.
        metrics: set -> metric -> mean score at `step`.
    """

    folder: Path
    model: Path
    best: Path | None
    step: int
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


def read_run(folder: Path, *, step: int, best_step: int | None) -> TrainResult:
    """Return the result of a run in `folder` that ended at `step`."""
    models = folder / "models"
    best = models / "net_g_best.safetensors"
    last = models / f"net_g_{step}.safetensors"
    if best_step is None or not best.exists():
        return TrainResult(folder, last, None, step, scores(folder, step))
    return TrainResult(folder, last, best, best_step, scores(folder, best_step))


def scores(folder: Path, step: int) -> dict[str, dict[str, float]]:
    """Return the validation scores in log.jsonl at a step: set -> metric -> mean. {} where there are none."""
    found: dict[str, dict[str, float]] = {}
    for entry in _entries(folder / "log.jsonl"):
        if entry.get("step") == step:
            for name, value in entry.items():
                kind, _, rest = name.partition("/")
                where, _, metric = rest.rpartition("/")
                if kind == "val" and metric in METRICS:
                    found.setdefault(where, {})[metric] = value
    return found


def _entries(log: Path) -> list[dict[str, Any]]:
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except OSError:  # another node without this folder
        return []
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:  # a line that a crash truncated
            continue
    return [entry for entry in entries if isinstance(entry, dict)]
