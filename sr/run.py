"""A whole run from options: train, and show people what came of it."""

from functools import partial
from pathlib import Path

from sr import dist
from sr.atomic import replacing
from sr.build import Build
from sr.describe import resolved
from sr.images import write_rgb
from sr.nets.models import load_into
from sr.options import Options
from sr.tiles import tiled
from sr.validate import ValSet, evaluate


def train(options: Options, *, plugins: bool = True) -> None:
    """The whole way: (make shards,) train, validate, save, and upscale the validation pictures with the saved file."""
    build = Build(options, plugins=plugins)
    engine = build.engine()
    if dist.is_main():
        with replacing(options.folder / "options.yml") as aside:
            aside.write_text(resolved(options, plugins=plugins))
    engine.run()
    strips = show(build, engine.last_model)
    if dist.is_main():
        print(f"\nmodel        {engine.last_model}\ncheckpoints  {options.folder / 'checkpoints'}")
        print(f"curves       tensorboard --logdir {options.folder / 'tensorboard'}")
        for strip in strips:
            print(f"strip        {strip}  (bicubic | ours | ground truth)")
        print(f"next         sr upscale FOLDER -o OUTPUT -m {engine.last_model}", flush=True)
    engine.players["generator"].accelerator.end_training()


def show(build: Build, model_file: Path) -> list[Path]:
    """Upscale validation pictures with the file just written, in tiles as `sr upscale` does, and write strips.

    Collective.
    """
    wanted, written = build.options.validation.pictures, []
    sets = [ValSet(given.name, given.items[:wanted]) for given in build.validation_sets() if wanted]
    net, scale = build.net("generator").eval(), build.options.scale
    load_into(net, model_file)
    run = partial(tiled, net, scale=scale, multiple=getattr(net, "multiple", 1), tile=256, overlap=32)
    results = evaluate(run, sets, scale=scale, pictures=wanted)
    for name, image in results.pictures.items() if dist.is_main() else ():
        path = build.options.folder / "strips" / f"{name.replace('/', '_')}.png"
        write_rgb(path, image)
        written.append(path)
    return written
