"""A whole run from options: train, and show people what came of it."""

import sys
from pathlib import Path

import torch

from sr.config.options import Options
from sr.distributed import comm
from sr.evaluate.validate.sheet import captions
from sr.images import write_rgb
from sr.nets.io.load import load_into
from sr.train.builder import Builder
from sr.train.plan_warnings import plan_warnings


def train(options: Options, *, plugins: bool = True) -> None:
    """The whole way: (make shards,) train, validate, save, and upscale the validation images with the saved file."""
    build = Builder(options, plugins=plugins)
    if comm.is_main():
        for sentence in plan_warnings(build):
            print(f"sr: warning: {sentence}", file=sys.stderr)
    engine = build.trainer()
    engine.run()
    images = show(build, engine.last_model, engine.device)
    if comm.is_main():
        print(f"\nmodel        {engine.last_model}\ncheckpoints  {options.folder / 'checkpoints'}")
        print(f"curves       tensorboard --logdir {options.folder / 'tensorboard'}")
        for strip in images:
            print(f"image      {strip}  ({' | '.join(captions(options.scale))})")
        verb = "upscale" if options.scale > 1 else "translate"
        print(f"next         sr {verb} FOLDER -o OUTPUT -m {engine.last_model}", flush=True)
    comm.shutdown()
    engine.players["generator"].accelerator.end_training()


def show(build: Builder, model_file: Path, device: torch.device) -> list[Path]:
    """Run validation images through the file just written; draw each as a strip, and all of a set as a sheet.
    Collective."""
    validation, wanted, folder = build.validation(), build.options.validation.images, build.options.folder
    if not wanted or not validation.rounds:
        return []
    net = build.nets.make("generator").eval()
    load_into(net, model_file)
    results, written = validation(net.to(device), first=wanted), []
    for kind, images in (("strips", results.images), ("sheets", results.sheets)):
        for name, image in images.items():
            written.append(folder / kind / f"{name.replace('/', '_')}.png")
            if comm.is_main():
                write_rgb(written[-1], image)
    return written
