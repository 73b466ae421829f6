"""A whole run from options: train, then upscale validation images with the saved model."""

import os
import sys
from pathlib import Path

from tqdm import tqdm

from sr.config.options import Options
from sr.core.errors import UserError
from sr.distributed import comm
from sr.images import write_rgb
from sr.nets.io.load import load_into
from sr.train.builder import Builder
from sr.train.plan_warnings import plan_warnings
from sr.train.results import TrainResult, read_run
from sr.train.trainer import Trainer


def train(options: Options, *, plugins: bool = True, accept_changes: bool = False) -> TrainResult:
    """Make shards where the options ask for it, train with validation and saving, and draw validation images with the
    saved model. accept_changes: resume with options that change what is learned."""
    build = Builder(options, plugins=plugins, accept_changes=accept_changes)
    if os.environ.get("RANK", "0") == "0":  # the process group does not exist yet
        for sentence in plan_warnings(build):
            print(f"sr: warning: {sentence}", file=sys.stderr)
    trainer = build.trainer()
    trainer.run()
    strips = _try_show(build, trainer)
    result = read_run(options.folder, step=trainer.step, best_step=trainer.best.get("step"))
    if comm.is_main():
        print(f"\nmodel        {trainer.last_model}\ncheckpoints  {options.folder / 'checkpoints'}")
        if "tensorboard" in trainer.trackers:
            print(f"curves       tensorboard --logdir {options.folder / 'tensorboard'}")
        for strip in strips:
            print(f"strip        {strip}")
        if trainer.failed_validations:
            print(f"validation   failed {trainer.failed_validations} time(s), see above")
        verb = "upscale" if options.scale > 1 else "translate"
        print(f"next         sr {verb} FOLDER -o OUTPUT -m {result.best or result.model}", flush=True)
    comm.shutdown()
    trainer.players["generator"].accelerator.end_training()
    return result


def _try_show(build: Builder, trainer: Trainer) -> list[Path]:
    """`show`; the training is over and saved, so that a failure is only reported. Collective."""
    try:
        return show(build, trainer)
    except UserError as error:
        if comm.is_main():
            tqdm.write(f"no validation images are drawn: {error}")
        return []


def show(build: Builder, trainer: Trainer) -> list[Path]:
    """Run validation images through the file just written; draw each as a strip, and all of a set as a sheet.

    Raises UserError on all ranks where an image cannot be read or a file cannot be written. Collective.
    """
    validation, wanted, folder = trainer.evaluate, build.options.validation.pictures, build.options.folder
    if not wanted or validation is None:
        return []
    net = build.nets.make("generator").eval()
    load_into(net, trainer.last_model)
    results = validation(net.to(trainer.device), first=wanted)
    images = {
        folder / kind / f"{name.replace('/', '_')}.png": image
        for kind, drawn in (("strips", results.images), ("sheets", results.sheets))
        for name, image in drawn.items()
    }

    def write() -> None:
        try:
            for path, image in images.items():
                write_rgb(path, image)
        except OSError as error:
            raise UserError(f"{error.filename or folder}: {error.strerror or error}; free space") from None

    comm.on_main(write)
    return list(images)
