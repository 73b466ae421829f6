"""A whole run from options: train, and show people what came of it."""

from pathlib import Path

import torch

from sr import dist
from sr.build import Build
from sr.images import write_rgb
from sr.nets.models import load_into
from sr.options import Options
from sr.validate import ValSet


def train(options: Options, *, plugins: bool = True) -> None:
    """The whole way: (make shards,) train, validate, save, and upscale the validation pictures with the saved file."""
    build = Build(options, plugins=plugins)
    engine = build.engine()
    engine.run()
    strips = show(build, engine.last_model, engine.device)
    if dist.is_main():
        print(f"\nmodel        {engine.last_model}\ncheckpoints  {options.folder / 'checkpoints'}")
        print(f"curves       tensorboard --logdir {options.folder / 'tensorboard'}")
        for strip in strips:
            print(f"strip        {strip}  (bicubic | ours | ground truth)")
        print(f"next         sr upscale FOLDER -o OUTPUT -m {engine.last_model}", flush=True)
    engine.players["generator"].accelerator.end_training()


def show(build: Build, model_file: Path, device: torch.device) -> list[Path]:
    """Upscale validation pictures with the file just written and write them as strips. Collective."""
    wanted, written = build.options.validation.pictures, []
    sets = [ValSet(given.name, given.items[:wanted]) for given in build.validation_sets() if wanted]
    net = build.net("generator").eval()
    load_into(net, model_file)
    for name, image in build.evaluate(net.to(device), sets=sets).pictures.items() if sets else ():
        path = build.options.folder / "strips" / f"{name.replace('/', '_')}.png"
        if dist.is_main():
            write_rgb(path, image)
        written.append(path)
    return written
