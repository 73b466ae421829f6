"""Asynchronous saving: a snapshot is taken at once, and a thread writes it while training continues."""

import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from sr.core.errors import UserError
from sr.distributed import comm
from sr.nets.io.state_dicts import OF_CHECKPOINT, save_safetensors
from sr.train import checkpoint
from sr.train.host_snapshot import Snapshot

Tensors = Mapping[str, Tensor]
NICE = 10  # a tenth of a core on a busy machine; at 19 a checkpoint might not be written before the next


class AsyncSaver:
    """Rank 0 copies the tensors and a thread writes them; a failure is raised on all ranks.

    Files are written one after another in the order of the calls, so that no checkpoint refers to a best model that
    does not exist yet. After a failure nothing more is written. export(weights, path, step): writes the weights for
    other programs.
    """

    def __init__(
        self, root: Path, *, keep: int, keep_models: int, export: Callable[[Tensors, Path, int], None]
    ) -> None:
        self._root, self._keep, self._keep_models, self._export = root, keep, keep_models, export
        self._snapshots: dict[str, Snapshot] = {}
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def checkpoint(
        self,
        state: Mapping[str, Any],
        tensors: Mapping[str, Tensors],
        *,
        spare: int | None,
        model: Path,
        discriminator: Path | None = None,
        root: Path | None = None,
    ) -> None:
        """Save `tensors` by group and `state`, the weights of group "ema" as `model`, and those of the discriminator.

        Collective.

        Older checkpoints beyond `keep` and older models beyond `keep_models` are removed. root: a folder other than
        that of the run.
        """
        step = state["step"]

        def write() -> None:
            groups = {name: self._snapshots[name] for name in tensors}
            checkpoint.write(root or self._root, step, state, groups, keep=self._keep, spare=spare)
            self._write_model(model, step)
            if discriminator is not None:
                held = self._snapshots["discriminator"].tensors.items()
                weights = {key.removeprefix(OF_CHECKPOINT): x for key, x in held if key.startswith(OF_CHECKPOINT)}
                save_safetensors(discriminator, weights, {"step": str(step)})
            _prune(model.parent, step, keep=self._keep_models)

        comm.on_main(lambda: self._start(tensors, write))

    def model(self, weights: Tensors, path: Path, step: int) -> None:
        """Save the weights of the generator for use. Collective."""
        comm.on_main(lambda: self._start({"ema": weights}, lambda: self._write_model(path, step)))

    def wait(self) -> None:
        """Wait until everything is on disk. Raises a write error on all ranks. Collective."""
        comm.on_main(self._finish)

    def check(self) -> None:
        """Raise a write error that occurred so far, on all ranks, without waiting. Collective."""
        comm.on_main(self._report)

    def close(self) -> None:
        """Wait for the thread when the run ends by another error, and print the thread's own error."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            print(f"sr: {self._error}", file=sys.stderr, flush=True)

    def _start(self, tensors: Mapping[str, Tensors], write: Callable[[], None]) -> None:
        self._finish()
        for name, group in tensors.items():
            self._snapshots.setdefault(name, Snapshot()).take(group)
        self._thread = threading.Thread(target=self._run, args=(write, list(tensors)), name="saver")  # not a daemon:
        # the interpreter waits at its exit until the checkpoint is complete
        self._thread.start()

    def _run(self, write: Callable[[], None], names: list[str]) -> None:
        if sys.platform == "linux":  # threads have priorities: on busy cores the next step comes first
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))
        try:
            for name in names:
                self._snapshots[name].arrive()
            write()
        except Exception as error:  # raised in the main thread by `_report`
            self._error = error

    def _write_model(self, path: Path, step: int) -> None:
        try:
            self._export(self._snapshots["ema"].tensors, path, step)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be written ({error}); free space and run the command again") from None

    def _finish(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._report()

    def _report(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _prune(folder: Path, step: int, *, keep: int) -> None:
    """Remove the oldest models up to `step` beyond `keep` of each network."""
    models: dict[str, list[tuple[int, Path]]] = {}
    for path in folder.glob("net_*.safetensors"):
        if (found := re.fullmatch(r"(net_\w+)_(\d+)", path.stem)) and int(found[2]) <= step:
            models.setdefault(found[1], []).append((int(found[2]), path))
    for rows in models.values():
        for _, path in sorted(rows)[:-keep]:
            path.unlink(missing_ok=True)
