"""Options in, objects out: the only file that knows both."""

import json
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from tqdm import tqdm

from sr import construct, dist
from sr.atomic import replacing
from sr.construct import PartOf, Table
from sr.data import SOURCES
from sr.data.assemble import Assemble
from sr.data.make import make_shards
from sr.data.paths import image_paths
from sr.data.stream import Stream
from sr.degrade import STAGES
from sr.degrade.pipeline import Degradation
from sr.ema import EMA
from sr.engine import Engine, Plan
from sr.errors import UserError
from sr.images import read_rgb, write_rgb
from sr.losses import ADVERSARIAL, FIDELITY, GAN_TERMS
from sr.losses.weights import WEIGHTS
from sr.nets import DISCRIMINATORS, GENERATORS
from sr.nets.layouts import save_safetensors
from sr.nets.models import architecture, load_into
from sr.optimizers import OPTIMIZERS
from sr.options import Options, Part, read, resolve
from sr.player import Player, accelerator, choose_precision
from sr.schedules import SCHEDULES, Schedule, Warmup
from sr.tasks import TASKS
from sr.tasks.task import Adversary, Fidelity, Weight
from sr.tiles import tiled
from sr.validate import Results, ValSet, evaluate, val_set

WEIGHT: dict[str, tuple[Any, Any]] = {"weight": (float | Annotated[Any, PartOf("weights")], 1.0)}
PLUS: dict[str, tuple[Any, Any]] = {"plus": (list[Annotated[Any, PartOf("gan_terms")]], [])}
TABLES: Mapping[str, Table] = {
    "generators": Table(GENERATORS, supplied=("scale",)),
    "discriminators": Table(DISCRIMINATORS, shared={"conditional": (bool, False)}, supplied=("num_in_ch",)),
    "losses": Table(FIDELITY, shared=WEIGHT),
    "gan": Table(ADVERSARIAL, shared=WEIGHT | PLUS),
    "gan_terms": Table(GAN_TERMS, shared=WEIGHT),
    "weights": Table(WEIGHTS),
    "degrade": Table(STAGES),
    "sources": Table(SOURCES),
    "optimizers": Table(OPTIMIZERS),
    "schedules": Table(SCHEDULES, shared={"warmup_steps": (int, 0)}, supplied=("total_steps",)),
}


def load(file: str | Path, sets: Iterable[str] = (), *, plugins: bool = True) -> Options:
    """Read, override and check an options file."""
    return resolve(read(file, sets), TABLES, plugins=plugins)


class Build:
    """Makes the objects that one set of options describes."""

    def __init__(self, options: Options, *, plugins: bool = True) -> None:
        self.options, self._plugins = options, plugins

    def _make(self, part: Part | None, table: str, *args: Any, **supplied: Any) -> Any:
        assert part is not None
        return construct.make(part, table, TABLES, *args, plugins=self._plugins, **supplied)

    def net(self, player: str) -> nn.Module:
        """The player's net; its initial weights depend on the seed and the player's name alone."""
        torch.manual_seed(_seed_of(self.options.seed, player))
        if player == "generator":
            net: nn.Module = self._make(self.options.generator, "generators", scale=self.options.scale)
        else:
            channels = 6 if self.conditional else 3
            net = self._make(self.options.discriminator, "discriminators", num_in_ch=channels)
        if player in self.options.init:
            load_into(net, self.options.init[player])
        return net

    def degradation(self, gt_size: int | None) -> Degradation:
        stages = [self._make(part, "degrade") for part in self.options.degrade]
        return Degradation(stages, scale=self.options.scale, gt_size=gt_size, seed=self.options.seed)

    def schedule(self) -> Schedule:
        part, steps = self.options.schedule, self.options.train.total_steps
        schedule: Schedule = self._make(part, "schedules", total_steps=steps)
        return Warmup(schedule, part.get("warmup_steps", 0))

    @property
    def conditional(self) -> bool:
        return bool(self.options.discriminator and self.options.discriminator.get("conditional"))

    def fidelity(self, device: torch.device, average: nn.Module | None = None) -> Fidelity:
        parts = self.options.losses.fidelity
        return Fidelity({n: (self.weight(p), self._make(p, "losses").to(device)) for n, p in parts.items()}, average)

    def adversary(self) -> Adversary:
        part = self.options.losses.gan
        assert part is not None
        plus = [(self.weight(extra), self._make(extra, "gan_terms")) for extra in part.get("plus", [])]
        return Adversary(self._make(part, "gan"), self.weight(part), plus)

    def weight(self, part: Part) -> Weight:
        given = part.get("weight", 1.0)
        made: Weight = self._make(given if isinstance(given, dict) else {"type": "constant", "value": given}, "weights")
        return made

    def source(self) -> Any:
        """The source of samples; makes its shards first where the options say so. Collective."""
        make = self.options.data.make
        if make is not None:
            out = Path(self.options.data.source["path"])
            write = partial(make_shards, size=make.size, step=make.step, format=make.format, per_shard=make.per_shard)
            scale = self.options.scale if make.lq else None
            dist.on_main(lambda: write(image_paths(make.photos), out, lq=make.lq, scale=scale, strict=True))
        return self._make(self.options.data.source, "sources")

    def stream(self, source: Any) -> Stream:
        options, data = self.options, self.options.data
        return Stream(
            source,
            seed=options.seed,
            scale=options.scale,
            gt_size=data.gt_size,
            crop_size=options.crop_size,
            batch_size=data.batch_size,
            accumulate=options.train.accumulate,
            workers=data.workers,
            flip=data.flip,
            rotate=data.rotate,
            rank=dist.rank(),
            world=dist.world(),
        )

    def validation_sets(self) -> list[ValSet]:
        return [
            val_set(
                name, hr=image_paths(given.hr), lr=image_paths(given.lr) if given.lr else None, scale=self.options.scale
            )
            for name, given in self.options.validation.sets.items()
        ]

    def engine(self) -> Engine:
        """Everything a run needs, on this process's device."""
        options, train = self.options, self.options.train
        accelerate = accelerator()
        device = accelerate.device
        precision = choose_precision(train.precision, device)
        sets = self.validation_sets()
        kind = TASKS[options.task]
        players: dict[str, Player] = {}
        for name, optimizer in options.optimizer.items():
            net = self.net(name).to(device)
            if train.channels_last:
                net = net.to(memory_format=torch.channels_last)
            players[name] = Player(
                name=name,
                net=net,
                optimizer=self._make(optimizer, "optimizers", net.parameters()),
                schedule=self.schedule(),
                accelerator=accelerate,
                precision=precision,
                clip_norm=train.clip_norm,
            )
        ema = EMA(players["generator"].raw, decay=train.ema_decay)
        with dist.first_on_each_node():  # a perceptual loss may download its weights
            parts: dict[str, Any] = {"fidelity": self.fidelity(device, ema.net)}
        if options.losses.gan is not None:
            parts |= {"gan": self.adversary(), "conditional": self.conditional}
        stream = self.stream(self.source())
        return Engine(
            task=kind(**{name: player.module for name, player in players.items()}, **parts),
            players=players,
            ema=ema,
            batches=stream.batches,
            prepare=Assemble(self.degradation(options.data.gt_size), device=device, channels_last=train.channels_last),
            evaluate=partial(self.evaluate, sets=sets) if sets else None,
            export=self.export,
            plan=self.plan(precision),
        )

    def plan(self, precision: str) -> Plan:
        options, train = self.options, self.options.train
        identity = {"task": options.task, "scale": options.scale, "generator": options.generator}
        return Plan(
            folder=options.folder,
            total_steps=train.total_steps,
            batch_size=options.data.batch_size,
            seed=options.seed,
            accumulate=train.accumulate,
            precision=precision,
            log_every=options.log.every,
            validate_every=options.validation.every,
            save_every=options.save.every,
            keep=options.save.keep,
            best=options.validation.best,
            max_bad=options.data.max_bad,
            identity=identity | ({"discriminator": options.discriminator} if options.discriminator else {}),
        )

    def evaluate(self, net: nn.Module, *, sets: list[ValSet]) -> Results:
        device = next(net.parameters()).device

        def run(lq: Tensor) -> Tensor:
            return net(lq.to(device)).cpu()

        return evaluate(run, sets, scale=self.options.scale, pictures=self.options.validation.pictures)

    def export(self, net: nn.Module, path: Path, step: int) -> None:
        """Weights under the published names, with what is needed to build the net again in the metadata."""
        kwargs = {"scale": self.options.scale} | {k: v for k, v in self.options.generator.items() if k != "type"}
        metadata = {"options": json.dumps(self.options.model_dump(mode="json")), "step": str(step)}
        save_safetensors(path, net.state_dict(), architecture(self.options.generator["type"], kwargs) | metadata)


def train(options: Options, *, plugins: bool = True) -> None:
    """The whole way: (make shards,) train, validate, save, and upscale the validation pictures with the saved file."""
    build = Build(options, plugins=plugins)
    engine = build.engine()
    if dist.is_main():
        with replacing(options.folder / "options.yml") as aside:
            aside.write_text(dump(options))
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


def degrade_folder(options: Options, inputs: str, output: Path, *, plugins: bool = True) -> list[Path]:
    """Write what the network will see of whole images: `<stem>_lq.png`, keyed by each image's place in the list."""
    degradation, written = Build(options, plugins=plugins).degradation(None), []
    for position, path in enumerate(tqdm(image_paths(inputs), unit="image", disable=None)):
        gt = torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None].float() / 255
        lq = (degradation(gt, [position]).lq[0] * 255).round().byte().permute(1, 2, 0).numpy()
        written.append(output / f"{position:06d}_{path.stem}_lq.png")
        write_rgb(written[-1], lq)
    return written


# ---- looking at options without running them -----------------------------------------------------------------------


def dump(options: Options) -> str:
    """The resolved options as YAML that can be run again."""
    return yaml.safe_dump(options.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)


def summary(options: Options, *, plugins: bool = True) -> str:
    """Parameter counts and the batch arithmetic, built without memory for weights."""
    build, lines = Build(options, plugins=plugins), []
    with torch.device("meta"):
        options = options.model_copy(update={"init": {}})
        build = Build(options, plugins=plugins)
        for name in TASKS[options.task].players:
            count = sum(p.numel() for p in build.net(name).parameters())
            lines.append(f"{name:14s}{count / 1e6:.3f} M parameters")
    world, train, size = int(os.environ.get("WORLD_SIZE", "1")), options.train, options.data.batch_size
    micro = size / (world * train.accumulate)
    if micro != int(micro):
        raise UserError(f"data.batch_size {size} does not split over {world} processes x accumulate {train.accumulate}")
    lines.append(f"batch         {size} = {world} process(es) x accumulate {train.accumulate} x {int(micro)} samples")
    lines.append(f"run           {train.total_steps} steps = {train.total_steps * size} samples")
    return "\n".join(lines)


def _seed_of(seed: int, player: str) -> int:
    return int(np.random.SeedSequence([seed, *player.encode()]).generate_state(1)[0])


def part_defaults(part: Part, table: str, *, plugins: bool = True) -> Part:
    """A part with the defaults of its constructor spelled out, for people to read."""
    model = construct.part_model(TABLES[table], construct.find(TABLES[table], part["type"], plugins=plugins))
    defaults = {
        k: f.get_default(call_default_factory=True) for k, f in model.model_fields.items() if not f.is_required()
    }
    return {"type": part["type"]} | {k: v for k, v in defaults.items() if v is not None} | part
