"""Logging of a run: log.jsonl, trackers, and a meter that sums losses on the device."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sr.core.atomic import replacing
from sr.core.errors import UserError
from sr.degrade.draws import upload
from sr.distributed import comm
from sr.train.trackers import Background, Run, Sink, TensorBoard

_Names = tuple[tuple[str, ...], bool]  # of values that are added together, and whether they are checked


class NotFinite(UserError):
    """A loss became nan or inf."""

    exit_code = 3


class Meter:
    """Means of named scalars since the last `read`, and the first step at which each was not finite.

    Everything stays on the device until `read`, which is collective and the only sync. `add` is one kernel: values are
    kept as rows, and FOLD rows of the same names are reduced together.
    """

    FOLD = 64

    def __init__(self) -> None:
        self._rows: dict[_Names, list[tuple[int, Tensor]]] = {}
        self._folded: dict[_Names, list[Tensor]] = {}
        self._counts: dict[_Names, int] = {}

    def add(self, values: Mapping[str, Tensor], *, step: int, checked: bool = True) -> None:
        """Add scalars. checked=False: values that may be infinite in a healthy run, such as a norm under a loss scaler,
        count as 0 then."""
        if not values:
            return
        names, row = (tuple(values), checked), torch.stack([value.detach().float() for value in values.values()])
        rows = self._rows.setdefault(names, [])
        rows.append((step, row))
        if len(rows) == self.FOLD:
            self._fold(names)

    def _fold(self, names: _Names) -> None:
        """Reduce the rows of these names to their sum and the first step that was not finite, [2, names]."""
        rows = self._rows.pop(names, [])
        if not rows:
            return
        values = torch.stack([row for _, row in rows])
        steps = upload(torch.tensor([float(step) for step, _ in rows]), values.device)[:, None]
        if not names[1]:
            values = torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        bad = torch.where(values.isfinite(), torch.inf, steps).amin(0)
        self._folded.setdefault(names, []).append(torch.stack([values.sum(0), bad]))
        self._counts[names] = self._counts.get(names, 0) + len(rows)

    def _collect(self) -> dict[str, tuple[float, float]]:
        """Return each name's mean and the first step at which it was not finite, and start again."""
        for names in list(self._rows):
            self._fold(names)
        parts = [(names, part) for names, parts in self._folded.items() for part in parts]
        table = torch.cat([part for _, part in parts], 1).tolist() if parts else [[], []]
        columns = zip((name for (names, _), _ in parts for name in names), *table, strict=True)
        totals: dict[str, tuple[float, float]] = {}
        for name, total, bad in columns:
            before = totals.get(name, (0.0, float("inf")))
            totals[name] = before[0] + total, min(before[1], bad)
        counts = {name: 0 for name in totals}
        for (group, _), count in self._counts.items():
            for name in group:
                counts[name] += count
        self._folded, self._counts = {}, {}
        return {name: (total / counts[name], bad) for name, (total, bad) in totals.items()}

    def read(self) -> dict[str, float]:
        """Return means over steps and ranks since the last `read`. Raises NotFinite on all ranks alike. Collective."""
        mine = self._collect()
        if not mine:
            return {}
        ranks = comm.gather(mine)
        bad = min((row[n][1], rank, n) for rank, row in enumerate(ranks) for n in row)
        if bad[0] < float("inf"):
            raise NotFinite(
                f"{bad[2]} was not finite at step {int(bad[0])} on rank {bad[1]}; nothing was saved since; lower the "
                "learning rate, set train.clip_norm or train.precision: fp32, and run the same command again"
            )
        return {n: sum(row[n][0] for row in ranks) / len(ranks) for n in mine}


IDS = "trackers.json"
"""The file of a run folder with the id of each tracker's run, by which it is resumed."""


class Tracker:
    """Writes log.jsonl and to all trackers on rank 0, does nothing on others. Collective.

    Entries after `run.resume_step`, of an earlier attempt, are removed from log.jsonl. Raises UserError on all ranks
    where a tracker cannot be started.
    """

    def __init__(self, run: Run, trackers: Mapping[str, Sink]) -> None:
        self._log, self._samples = run.folder / "log.jsonl", run.folder / "samples.jsonl"
        self._sinks: list[Sink] = []
        self._open = ExitStack()
        comm.on_main(lambda: self._start(run, trackers))

    def _start(self, run: Run, trackers: Mapping[str, Sink]) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        for file in (self._log, self._samples):
            _cut(file, run.resume_step)
        ids = _ids(run.folder)
        try:
            for kind, sink in trackers.items():
                began = sink if isinstance(sink, TensorBoard) else Background(kind, sink)
                ids[kind] = began.start(replace(run, id=ids.get(kind, "")))
                self._sinks.append(self._open.enter_context(closing(began)))
        except BaseException:
            self._open.close()
            raise
        if any(ids.values()):
            with replacing(run.folder / IDS) as scratch:
                scratch.write_text(json.dumps({kind: id for kind, id in ids.items() if id}))

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        """Write one entry to all trackers and log.jsonl."""
        if not comm.is_main():
            return
        for sink in self._sinks:
            sink.scalars(values, step=step)
        with self._log.open("a") as file:
            file.write(json.dumps({"step": step, **{name: round(value, 7) for name, value in values.items()}}) + "\n")

    def samples(self, used: Sequence[tuple[int, list[int]]]) -> None:
        """Write used samples. used: this rank's (step, global sample positions) per micro-batch. Collective."""
        ranks = comm.gather(used)
        if comm.is_main():
            with self._samples.open("a") as file:
                for rows in zip(*ranks, strict=True):  # the same micro-batch on every rank
                    file.write(json.dumps({"step": rows[0][0], "ranks": [positions for _, positions in rows]}) + "\n")

    def image(self, name: str, image: np.ndarray[Any, Any], *, step: int) -> None:
        """Write an image, uint8 [h, w, 3], to all trackers."""
        for sink in self._sinks:
            sink.image(name, image, step=step)

    def close(self) -> None:
        """Flush and close all trackers."""
        self._open.close()


def _ids(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / IDS).read_text())
    except (OSError, ValueError):
        return {}
    return {str(kind): str(id) for kind, id in found.items()} if isinstance(found, dict) else {}


def _cut(file: Path, step: int) -> None:
    """Remove the lines that `_kept` does not keep."""
    if file.exists():
        kept = [line for line in file.read_text().splitlines() if _kept(line, step)]
        with replacing(file) as scratch:
            scratch.write_text("".join(line + "\n" for line in kept))


def _kept(line: str, step: int) -> bool:
    """Whether a log line is of a step up to `step` and not a validation at `step`, which resuming repeats. False for a
    line that a crash truncated."""
    try:
        entry = json.loads(line)
        validates = entry["step"] == step and any(name.startswith("val/") for name in entry)
        return float(entry["step"]) <= step and not validates
    except (ValueError, KeyError, TypeError):
        return False
