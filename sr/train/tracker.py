"""Logging of a run: TensorBoard, log.jsonl, and a meter that sums losses on the device."""

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sr.core.atomic import replacing
from sr.core.errors import UserError
from sr.distributed import comm


class NotFinite(UserError):
    """A loss became nan or inf."""

    exit_code = 3


class Meter:
    """Sums of named scalars since the last `read`, and the first step at which each was not finite.

    Everything stays on the device; the only sync is in `read`, which is collective.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._first_bad: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor], *, step: int, checked: bool = True) -> None:
        """Add scalars. checked=False: values that may be infinite in a healthy run, such as a norm under a loss scaler,
        count as 0 then."""
        for name, value in values.items():
            value = value.detach().float()
            if not checked:
                value = torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0)
            bad = torch.where(torch.isfinite(value), torch.inf, float(step))
            if name in self._sums:
                self._sums[name] += value
                torch.minimum(self._first_bad[name], bad, out=self._first_bad[name])
            else:
                self._sums[name], self._first_bad[name] = value.clone(), bad
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """Return means over steps and ranks since the last `read`. Raises NotFinite on all ranks alike. Collective."""
        if not self._sums:
            return {}
        names = list(self._sums)
        rows = torch.stack([torch.stack([self._sums[n], self._first_bad[n]]) for n in names]).tolist()
        mine = {n: (total / self._counts[n], bad) for n, (total, bad) in zip(names, rows, strict=True)}
        self._sums, self._first_bad, self._counts = {}, {}, {}
        ranks = comm.gather(mine)
        bad = min((row[n][1], rank, n) for rank, row in enumerate(ranks) for n in row)
        if bad[0] < float("inf"):
            raise NotFinite(
                f"{bad[2]} was not finite at step {int(bad[0])} on rank {bad[1]}; nothing was saved since; lower the "
                "learning rate, set train.clip_norm or train.precision: fp32, and run the same command again"
            )
        return {n: sum(row[n][0] for row in ranks) / len(ranks) for n in names}


class Tracker:
    """Writes on rank 0, does nothing on others. Entries after `resume_step`, of an earlier attempt, are removed."""

    def __init__(self, folder: Path, *, resume_step: int) -> None:
        self._log, self._samples = folder / "log.jsonl", folder / "samples.jsonl"
        self._writer: Any = None
        if comm.is_main():
            from torch.utils.tensorboard import SummaryWriter  # heavy, and only rank 0 writes

            folder.mkdir(parents=True, exist_ok=True)
            for file in (self._log, self._samples):
                _cut(file, resume_step)
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1)
            self._hook, threading.excepthook = threading.excepthook, _ignore_os_errors

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        """Write one entry to TensorBoard and log.jsonl."""
        if self._writer is None:
            return
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
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
        """Write an image, uint8 [h, w, 3], to TensorBoard."""
        if self._writer is not None:
            self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the files."""
        if self._writer is not None:
            self._writer.close()
            threading.excepthook = self._hook


def _ignore_os_errors(args: Any) -> None:
    """TensorBoard's thread hands an OSError to the next writer, which raises it; its own traceback is suppressed."""
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)


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
