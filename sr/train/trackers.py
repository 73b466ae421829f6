"""Experiment trackers that `log.trackers` names: TensorBoard, and others through the trackers of accelerate.

A tracker gets the options, scalars and images of a run on rank 0. A class of your own with the methods of `Sink` works
too, by its dotted path.
"""

import json
import os
import re
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import yaml
from tqdm import tqdm

from sr.core.daemon_pool import DaemonPool
from sr.core.errors import UserError, first_line
from sr.train.build_nets import PRIVATE

Image = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Run:
    """What a tracker is told about a run.

    Attributes:
        folder: of the run; its name is the name of the run.
        options: with all defaults.
        resume_step: the step of the checkpoint that the run resumes from, or 0.
        losses: names of the scalars to show first.
        id: under which an earlier attempt was tracked; empty at first.
    """

    folder: Path
    options: Mapping[str, Any]
    resume_step: int = 0
    losses: Collection[str] = ()
    id: str = ""


class Sink(Protocol):
    """A tracker. Methods are called in order, on rank 0."""

    def start(self, run: Run) -> str:
        """Begin, or resume the run `run.id`. Returns the id to resume it by."""

    def scalars(self, values: Mapping[str, float], *, step: int) -> None: ...

    def image(self, name: str, image: Image, *, step: int) -> None:
        """Add an image, uint8 [h, w, 3]."""

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the folder `tensorboard` of the run. Entries after the step of a resume are removed."""

    def start(self, run: Run) -> str:
        from torch.utils.tensorboard import SummaryWriter  # heavy, and only rank 0 writes

        self._losses = run.losses
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.resume_step + 1)
        self._hook, threading.excepthook = threading.excepthook, _ignore_os_errors
        text = yaml.safe_dump(dict(run.options), sort_keys=False, allow_unicode=True)
        self._writer.add_text("options", "".join(f"    {line}\n" for line in text.splitlines()))  # a fixed-width font
        return ""

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{self._group(name)}/{name}", value, step)

    def image(self, name: str, image: Image, *, step: int) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()
        threading.excepthook = self._hook

    def _group(self, name: str) -> str:
        """Return the section of a scalar; TensorBoard sorts sections by name, so numbers put losses first."""
        if name in self._losses:
            return "1_losses"
        return "2_validation" if name.startswith("val/") else "3_balance" if name[:2] in ("g/", "d/") else "4_run"


def _ignore_os_errors(args: Any) -> None:
    """TensorBoard's thread hands an OSError to the next writer, which raises it; its own traceback is suppressed."""
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)


# ---- through accelerate ----------------------------------------------------------------------------------------------


class _Accelerated:
    """A tracker of accelerate."""

    package: ClassVar[str]

    def __init__(self) -> None:
        if find_spec(self.package) is None:
            extra = "'sr-train[trackers]'" if self.package in ("wandb", "mlflow") else self.package
            raise UserError(
                f"log.trackers: {self.package} is not installed; run: pip install {extra}, or remove it from the list"
            )

    def start(self, run: Run) -> str:
        self.tracker = self._made(run)
        self.tracker.start()
        if not run.id or self.package != "mlflow":  # whose parameters cannot be changed
            self.tracker.store_init_configuration(dict(_flat(_public(run.options))))
        return self._id(run)

    def _made(self, run: Run) -> Any:
        """Return accelerate's tracker, not yet started."""
        raise NotImplementedError

    def _id(self, run: Run) -> str:
        return run.id

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        self.tracker.log({_plain(name): value for name, value in values.items()}, step=step)

    def image(self, name: str, image: Image, *, step: int) -> None:
        self.tracker.log_images({_plain(name): [image]}, step=step)

    def close(self) -> None:
        self.tracker.finish()


class WandB(_Accelerated):
    """Weights & Biases. Log in by `wandb login` or WANDB_API_KEY. Files are kept in the folder `wandb` of the run.

    Args:
        project: Project of the run.
        entity: User or team; default: that of the account.
        tags: Tags of the run.
        mode: offline keeps everything on disk, for `wandb sync`; default: WANDB_MODE, or online.
    """

    package = "wandb"

    def __init__(
        self,
        *,
        project: str = "sr",
        entity: str | None = None,
        tags: list[str] = [],  # noqa: B006  (it is not changed)
        mode: Literal["online", "offline"] | None = None,
    ) -> None:
        super().__init__()
        self._settings = {"project": project, "entity": entity, "tags": tags, "mode": mode}

    def _made(self, run: Run) -> Any:
        from accelerate.tracking import WandBTracker

        settings = {key: value for key, value in self._settings.items() if key != "project"}
        return WandBTracker(
            str(self._settings["project"]),
            name=run.folder.name,
            id=run.id or secrets.token_hex(4),
            resume="allow",
            dir=str(run.folder),
            **settings,
        )

    def _id(self, run: Run) -> str:
        return str(self.tracker.tracker.id)


class MLflow(_Accelerated):
    """MLflow: a tracking server, or a folder.

    Args:
        experiment: Experiment of the run.
        uri: Address of the server, or folder; default: MLFLOW_TRACKING_URI, or the folder `mlruns` beside the run.
    """

    package = "mlflow"

    def __init__(self, *, experiment: str = "sr", uri: str | None = None) -> None:
        super().__init__()
        self._experiment, self._uri = experiment, uri

    def _made(self, run: Run) -> Any:
        import mlflow
        from accelerate.tracking import MLflowTracker

        uri = self._uri or os.environ.get("MLFLOW_TRACKING_URI") or (run.folder.parent / "mlruns").resolve().as_uri()
        if "://" not in uri or uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions ask for this consent
        mlflow.set_tracking_uri(uri)
        return MLflowTracker(self._experiment, run_id=run.id or None, run_name=run.folder.name)

    def _id(self, run: Run) -> str:
        return str(self.tracker.tracker.info.run_id)

    def image(self, name: str, image: Image, *, step: int) -> None:
        import mlflow

        mlflow.log_image(image, key=_plain(name), step=step)


class Trackio(_Accelerated):
    """Trackio of Hugging Face: a local dashboard (`trackio show`), or a Space.

    Args:
        project: Project of the run.
        space_id: Space on the Hub that shows it, such as user/name; default: local.
    """

    package = "trackio"

    def __init__(self, *, project: str = "sr", space_id: str | None = None) -> None:
        super().__init__()
        self._project, self._space = project, space_id

    def _made(self, run: Run) -> Any:
        from accelerate.tracking import TrackioTracker

        return TrackioTracker(self._project, name=run.folder.name, space_id=self._space, resume="allow")

    def image(self, name: str, image: Image, *, step: int) -> None:
        import trackio

        self.tracker.log({_plain(name): trackio.Image(image)}, step=step)


TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow, "trackio": Trackio}


def _plain(name: str) -> str:
    """Return a name with the characters that all trackers allow."""
    return re.sub(r"[^\w\-./ ]", "_", name, flags=re.ASCII)


def _public(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without paths of data, which may hold credentials: trackers send them to servers."""
    kept = {key: value for key, value in options.items() if PRIVATE.get(key) is not True}
    for key in kept.keys() & PRIVATE.keys():
        kept[key] = {name: value for name, value in kept[key].items() if name not in PRIVATE[key]}
    return kept


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested options; lists as JSON."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list | Mapping) else value


# ---- failures --------------------------------------------------------------------------------------------------------


class Background:
    """Runs a tracker in one thread, so that a slow server does not delay training.

    A failure at `start` raises UserError. A later one is printed once and turns the tracker off for this attempt.
    """

    SECONDS = 120.0  # for an answer at the start and at the end
    WAITING = 1000  # entries

    def __init__(self, kind: str, sink: Sink) -> None:
        self._kind, self._sink, self._off, self._waiting = kind, sink, False, 0
        self._pool = DaemonPool(1, f"tracker_{kind}")

    def start(self, run: Run) -> str:
        try:
            return self._pool.submit(self._sink.start, run).result(timeout=self.SECONDS)
        except UserError:
            raise
        except Exception as error:
            cause = f"no answer in {self.SECONDS:.0f} seconds" if isinstance(error, Late) else first_line(error)
            raise UserError(
                f"log.trackers: {self._kind} cannot be started ({cause}); set it up, or remove it from log.trackers"
            ) from None

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        self._send(lambda: self._sink.scalars(values, step=step))

    def image(self, name: str, image: Image, *, step: int) -> None:
        self._send(lambda: self._sink.image(name, image, step=step))

    def close(self) -> None:
        """Wait for the entries that are left."""
        try:
            self._pool.submit(self._attempt, self._sink.close).result(timeout=self.SECONDS)
        except Late:
            self._fail(f"no answer in {self.SECONDS:.0f} seconds")
        self._pool.shutdown(seconds=0)

    def _send(self, entry: Callable[[], None]) -> None:
        if self._off:
            return
        if self._waiting >= self.WAITING:
            self._fail(f"{self.WAITING} entries wait for an answer")
            return
        self._waiting += 1
        self._pool.submit(self._attempt, entry)

    def _attempt(self, entry: Callable[[], None]) -> None:
        self._waiting -= 1
        if self._off:
            return
        try:
            entry()
        except Exception as error:  # of any library, about any server
            self._fail(first_line(error))

    def _fail(self, cause: str) -> None:
        if not self._off:
            tqdm.write(f"log.trackers: {self._kind} failed ({cause}) and gets no more entries; training continues")
        self._off = True
