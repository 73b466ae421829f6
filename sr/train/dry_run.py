"""A dry run of everything that training does later: what would fail after hours fails before the first step."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from sr.core.errors import UserError
from sr.distributed import comm
from sr.evaluate.validate import Results
from sr.images import write_rgb
from sr.train import checkpoint
from sr.train.tracker import Tracker
from sr.train.trackers import Run, TensorBoard

if TYPE_CHECKING:
    from sr.train.trainer import Trainer


def dry_run(trainer: "Trainer") -> None:
    """Write a checkpoint, a model and a log entry, decode all validation images, validate one of each set.

    Files go to a scratch folder among the checkpoints, which is removed. Costs the decoding of every validation image,
    one validation image per set, and one checkpoint. Raises UserError on all ranks alike. Collective.
    """
    scratch = trainer.options.folder / "checkpoints" / ".dry_run"
    comm.on_main(lambda: shutil.rmtree(scratch, ignore_errors=True))
    try:
        _save(trainer, scratch)
        _log(scratch)
        _validate(trainer, scratch)
    except UserError as error:
        raise UserError(f"before training: {error}") from error
    finally:
        if comm.is_main():
            shutil.rmtree(scratch, ignore_errors=True)


def _validate(trainer: "Trainer", scratch: Path) -> None:
    if trainer.evaluate is None:
        return
    trainer.evaluate.check_images()
    with trainer.ema.unsharded() as net:
        results = trainer.evaluate(net, first=1)
    wanted = trainer.options.best_metrics
    best = results.first_measured(wanted)
    if best is None:
        reason = results.left_out.get(wanted[-1], "no set has ground truth")
        raise UserError(f"validation.best: {wanted[-1]} cannot be measured ({reason}); set it to another metric")
    if comm.is_main() and trainer.options.validation.best is None and len(wanted) > 1:
        skipped = "".join(
            f"; no {metric}: {results.left_out[metric]}" for metric in wanted if metric in results.left_out
        )
        tqdm.write(f"net_g_best is chosen by {best}{skipped}")
    if comm.is_main():
        for metric, why in results.left_out.items():
            if metric in trainer.options.validation.metrics:
                tqdm.write(f"validation.metrics: {metric} is not measured: {why}")
    comm.on_main(lambda: _draw(results, scratch))


def _draw(results: Results, scratch: Path) -> None:
    for number, image in enumerate([*results.images.values(), *results.sheets.values()]):
        write_rgb(scratch / f"{number}.png", image)


def _save(trainer: "Trainer", scratch: Path) -> None:
    state, tensors = trainer.snapshot()
    trainer.saver.checkpoint(state, tensors, spare=None, model=scratch / "model.safetensors", root=scratch)
    trainer.saver.wait()
    comm.on_main(lambda: _verify(scratch))


def _verify(root: Path) -> None:
    for folder in root.glob("step_*"):
        if reason := checkpoint.damage(folder):
            raise UserError(f"{folder}: does not hold what was written, {reason}; use another disk")


def _log(scratch: Path) -> None:
    tracker = Tracker(Run(scratch, {}), {"tensorboard": TensorBoard()})
    comm.on_main(lambda: tracker.scalars({"dry_run": 0.0}, step=1))
    tracker.close()
