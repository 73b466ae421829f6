"""Build the objects of a run from its options."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml
from pydantic import Field, NonNegativeInt
from torch import nn
from tqdm import tqdm

from sr.config import registry
from sr.config.base import read
from sr.config.options import Cycle, Make, Options, Part, Player, Train, resolve
from sr.config.recipes import locate
from sr.config.registry import PartOf, Table
from sr.core.atomic import replacing
from sr.core.errors import UserError
from sr.data import SOURCES
from sr.data.counts import stated
from sr.data.loader import Loader
from sr.data.make_shards import make_shards
from sr.data.mix import sides_of
from sr.data.quality import Limits
from sr.data.summary import summary
from sr.degrade import AUGMENTATIONS, STAGES
from sr.degrade.mixing import Mixer
from sr.degrade.on_device import OnDeviceBatch
from sr.degrade.pipeline import Degradation
from sr.distributed import comm
from sr.distributed.backends import Launch, accelerator, read_launch
from sr.distributed.watchdog import FIRST_STEP_FACTOR
from sr.losses import ADVERSARIAL, GAN_TERMS, LOGITS_ALONE, RECONSTRUCTION
from sr.losses.backbones import keep_in_half
from sr.losses.perceptual import Perceptual
from sr.losses.weight_schedules import WEIGHTS, NonNegative
from sr.nets import DISCRIMINATORS, GENERATORS, spandrel_archs
from sr.nets.checkpointed import checkpoint_blocks
from sr.nets.compiled import can_compile, compile_net, repeated_blocks
from sr.nets.device import place
from sr.nets.rrdbnet import ResidualDenseBlock, is_short, saved_by_recomputing
from sr.tasks import TASKS
from sr.tasks.task import GANLoss, ReconstructionLosses, Weight
from sr.train import optimizers
from sr.train.build_nets import Nets
from sr.train.build_validation import Validator
from sr.train.ema import EMA
from sr.train.model_optimizer import PRECISIONS, ModelOptimizer, choose_precision
from sr.train.optimizers import NAMED, OPTIMIZERS
from sr.train.schedules import SCHEDULES, Schedule, Warmup
from sr.train.trackers import TRACKERS, Sink
from sr.train.trainer import Trainer

ROUNDED = "data: images of 16 bits, but bf16 rounds what the network makes to about 8; set train.precision: fp32"
COMPILED_STEPS = 10_000  # of a run from which `train.compile: auto` pays
WEIGHT: dict[str, tuple[Any, Any]] = {"weight": (NonNegative | Annotated[Any, PartOf("weights")], 1.0)}
REGULARIZERS: dict[str, tuple[Any, Any]] = {"regularizers": (list[Annotated[Any, PartOf("gan_terms")]], [])}
TABLES: Mapping[str, Table] = {
    "generators": Table(GENERATORS, supplied=("scale",), members=spandrel_archs.members, named=spandrel_archs.NAMED),
    "discriminators": Table(DISCRIMINATORS, shared={"conditional": (bool, False)}, supplied=("num_in_ch",)),
    "losses": Table(RECONSTRUCTION, shared=WEIGHT),
    "gan": Table(ADVERSARIAL, shared=WEIGHT | REGULARIZERS),
    "gan_terms": Table(GAN_TERMS, shared=WEIGHT),
    "weights": Table(WEIGHTS),
    "degrade": Table(STAGES),
    "augment": Table(AUGMENTATIONS),
    "sources": Table(SOURCES, supplied=("channels",)),
    "optimizers": Table(
        OPTIMIZERS,
        shared={"no_decay": (list[str], []), "lr_scale": (dict[str, Annotated[float, Field(gt=0)]], {})},
        positional=1,
        named=NAMED,
    ),
    "schedules": Table(SCHEDULES, shared={"warmup_steps": (NonNegativeInt, 0)}, supplied=("total_steps",)),
    "trackers": Table(TRACKERS),
}


def load(file: str | Path, sets: Iterable[str] = (), *, plugins: bool = True) -> Options:
    """Read, override and check an options file, or a recipe by its name."""
    return resolve(read(locate(file), sets), TABLES, plugins=plugins)


class Builder:
    """Builds the objects that a set of options describes."""

    def __init__(self, options: Options, *, plugins: bool = True, accept_changes: bool = False) -> None:
        self.options, self._plugins, self._accept_changes = options, plugins, accept_changes
        self.nets = Nets(options, self._make)

    def _make(self, part: Part | None, table: str, *args: Any, **supplied: Any) -> Any:
        assert part is not None
        return registry.make(part, table, TABLES, *args, plugins=self._plugins, **supplied)

    def degradation(self, gt_size: int | None, seed: int | None = None) -> Degradation:
        stages = [self._make(part, "degrade") for part in self.options.degrade]
        given = self.options.seed if seed is None else seed
        scale, bits = self.options.scale, self.options.data.lq_bits
        return Degradation(stages, scale=scale, gt_size=gt_size, seed=given, lq_bits=bits)

    def mixer(self, micro_batch: int) -> Mixer | None:
        steps = [self._make(part, "augment") for part in self.options.augment]
        mixer = Mixer(steps, seed=self.options.seed) if steps else None
        if mixer and mixer.partners and micro_batch % 2:
            raise UserError(
                f"augment: each process gets {micro_batch} samples at a time, and mixing needs an even number; change "
                "data.batch_size, train.accumulate or the number of processes"
            )
        return mixer

    def schedule(self) -> Schedule:
        part, steps = self.options.schedule, self.options.train.total_steps
        schedule: Schedule = self._make(part, "schedules", total_steps=steps)
        return Warmup(schedule, part.get("warmup_steps", 0))

    def optimizer(self, player: Player, net: nn.Module) -> torch.optim.Optimizer:
        part = self.options.optimizer[player]
        groups = {key: part[key] for key in ("no_decay", "lr_scale") if key in part}
        return optimizers.build(partial(self._make, part, "optimizers"), net, name=player, **groups)

    def reconstruction(
        self, device: torch.device, average: EMA | None = None, precision: str = "fp32"
    ) -> ReconstructionLosses:
        last = self.options.train.channels_last
        terms = {
            name: (self.weight(part), place(self._make(part, "losses"), device, channels_last=last))
            for name, part in self.options.losses.reconstruction.items()
            if part.get("weight") != 0  # such a term would load its network for nothing
        }
        for _, loss in terms.values():
            if isinstance(loss, Perceptual) and precision != "fp32" and device.type != "cpu":
                keep_in_half(loss, PRECISIONS[precision])
        return ReconstructionLosses(terms, average)

    def gan_loss(self) -> GANLoss | None:
        part = self.options.losses.gan
        if part is None:
            return None
        regularizers = [(self.weight(extra), self._make(extra, "gan_terms")) for extra in part.get("regularizers", [])]
        return GANLoss(self._make(part, "gan"), self.weight(part), regularizers)

    def _checkpoint(self, player: str, net: nn.Module, launch: Launch) -> None:
        """Recompute the generator's activations as `train.checkpoint_activations` sets."""
        if not self.options.train.checkpoint_activations or player != "generator":
            return
        if launch.backend != "ddp" or self.options.train.compile is True:
            other = "train.compile" if launch.backend == "ddp" else str(launch)
            raise UserError(f"train.checkpoint_activations does not work with {other}; remove one of them")
        if not checkpoint_blocks(net):
            kind = self.options.generator["type"]
            raise UserError(f"train.checkpoint_activations finds no repeated blocks in {kind}; remove it")

    def _recompute(self, player: str, net: nn.Module, device: torch.device, precision: str) -> None:
        """Let dense blocks recompute their inputs as `train.recompute` sets. Collective."""
        data, train = self.options.data, self.options.train
        images = data.batch_size // (comm.world() * train.accumulate)
        pixels = images * (data.gt_size // self.options.scale // getattr(net, "multiple", 1)) ** 2
        needed = saved_by_recomputing(net, pixels, PRECISIONS[precision].itemsize)
        if player != "generator" or device.type != "cuda" or not needed:
            return
        free = min(comm.gather(torch.cuda.mem_get_info(device)[0]))
        on = is_short(needed, free) if train.recompute == "auto" else bool(train.recompute)
        for block in net.modules():
            if isinstance(block, ResidualDenseBlock):
                block.recompute = on
        if comm.is_main():
            given = f"{needed / 2**30:.1f} GiB, of {free / 2**30:.1f} GiB free"
            tqdm.write(f"train.recompute: {'on, saves' if on else 'off, the inputs of dense blocks take'} {given}")

    def _compile(self, player: str, net: nn.Module, launch: Launch, device: torch.device) -> None:
        """Compile as `train.compile` sets; a discriminator only if the GAN loss uses nothing but its logits."""
        train, gan = self.options.train, self.options.losses.gan or {}
        if train.compile == "auto":
            ours = type(net).__module__.startswith("sr.") and repeated_blocks(net)
            fits = launch.backend == "ddp" and player == "generator" and not train.checkpoint_activations
            if not (ours and fits and train.total_steps >= COMPILED_STEPS and can_compile(device)):
                return
        elif not train.compile:
            return
        elif launch.backend != "ddp":
            raise UserError(f"train.compile cannot look through {launch}; remove it, or launch with --multi_gpu")
        if player == "generator" or (gan["type"] in LOGITS_ALONE and not gan.get("regularizers")):
            compile_net(net, failed=lambda why: tqdm.write(f"train.compile: {why}"))
            if comm.is_main():
                tqdm.write(f"train.compile: the {player} is compiled before the first step, which takes minutes once")

    def trackers(self) -> dict[str, Sink]:
        parts = [part for part in self.options.log.trackers if isinstance(part, dict)]
        return {part["type"]: self._make(part, "trackers") for part in parts}

    def weight(self, part: Part) -> Weight:
        given = part.get("weight", 1.0)
        made: Weight = self._make(given if isinstance(given, dict) else {"type": "constant", "value": given}, "weights")
        return made

    def source(self) -> Any:
        """The source of samples; makes its shards first where the options say so. Collective."""
        if self.options.data.make is not None:
            comm.on_main(partial(self._make_shards, self.options.data.make))
        source = comm.agree(lambda: self._source(self.options.data.source))
        counts = [stated(part.counts) for parts in sides_of(source) for part, _ in parts]
        if len(set(comm.gather(hashlib.sha256(repr(counts).encode()).digest()))) > 1:  # the order would not be one
            raise UserError("data.source: the processes see different samples; give all of them the same shards")
        if comm.is_main():
            print(f"data: {summary(source)}", flush=True)
        return source

    def _make_shards(self, make: Make) -> None:
        """Make the shards that `data.make` describes, unless they exist; print what was skipped."""
        report = make_shards(
            make.photos,
            self.options.data.source["path"],
            size=make.size,
            step=make.step,
            format=make.format,
            per_shard=make.per_shard,
            lq=make.lq,
            scale=self.options.scale if make.lq else None,
            strict=True,
            channels=self._data_channels,
            limits=Limits(**make.model_dump(include={*Limits._fields})),
        )
        for note in report.notes:
            print(f"data.make: {note}", flush=True)

    def _source(self, part: Part) -> Any:
        """A source whose images have the channels that the generator asks for; of sets a and b in this order."""
        return self._make(part, "sources", channels=self._data_channels)

    @property
    def _data_channels(self) -> tuple[int, int]:
        """Of lq and gt, or of sets a and b."""
        given, wanted = self.nets.channels
        return (wanted, given) if self.options.data.direction == "b_to_a" else (given, wanted)

    def stream(self, source: Any, degradation: Degradation | None = None) -> Loader:
        """The loader. A degradation with a stage that needs the host runs in its workers."""
        options, data = self.options, self.options.data
        return Loader(
            source,
            seed=options.seed,
            batch_size=data.batch_size,
            accumulate=options.train.accumulate,
            workers=data.workers,
            rank=comm.rank(),
            world=comm.world(),
            scale=options.scale,
            degrade_size=options.degrade_size,
            degradation=degradation if degradation and degradation.on_host else None,
            **data.model_dump(include={"gt_size", "flip", "rotate", "direction", "load_size"}),
        )

    def validation(self) -> Validator:
        return Validator(self.options, self.nets, self._source, self.degradation)

    def trainer(self) -> Trainer:
        """Build everything that a run needs, on the device of this process. Collective."""
        options, train = self.options, self.options.train
        launch = read_launch()
        comm.meet(train.timeout)
        accelerate = accelerator(launch, timeout=timedelta(seconds=train.timeout * FIRST_STEP_FACTOR))
        device = accelerate.device
        precision = choose_precision(train.precision, device)
        validation = comm.agree(self.validation)
        kind = TASKS[options.task]
        players: dict[str, ModelOptimizer] = {}
        for name in options.optimizer:
            net = comm.agree(partial(self._net, name)).to(device)
            self.nets.check_shapes(name, net)
            self._checkpoint(name, net, launch)
            self._recompute(name, net, device, precision)
            self._compile(name, place(net, device, channels_last=train.channels_last), launch, device)
            players[name] = ModelOptimizer(
                name=name,
                net=net,
                optimizer=self.optimizer(name, net),
                schedule=self.schedule(),
                accelerator=accelerate,
                launch=launch,
                precision=precision,
                clip_norm=train.clip_norm,
                accumulate=train.accumulate,
                keep=name != "generator",
            )
        check_switch(train, launch)
        ema = EMA(players["generator"].backend, decay=train.ema_decay, warm_up="generator" not in options.init)
        with comm.first_on_each_node():  # a perceptual loss may download its weights
            parts: dict[str, Any] = {"reconstruction": self.reconstruction(device, ema, precision)}
        parts["reconstruction"].watch(players["generator"].raw)
        gan, degradation = self.gan_loss(), self.degradation(options.data.gt_size)
        if gan is not None:
            parts |= {"gan": gan}
            cycle = (options.cycle or Cycle()).model_dump()
            parts |= cycle if options.task == "cyclegan" else {"conditional": self.nets.conditional}
        stream = self.stream(self.source(), degradation)
        return Trainer(
            task=kind(**{name: player.module for name, player in players.items()}, **parts),
            players=players,
            ema=ema,
            batches=stream.batches,
            prepare=self._prepare(degradation, stream.micro_batch, device, precision),
            evaluate=validation if validation.rounds else None,
            export=self.nets.export,
            record=self.record,
            options=options,
            resolved=json.loads(json.dumps(self.filled())),  # as a checkpoint holds them: tuples become lists
            trackers=comm.agree(self.trackers),
            precision=precision,
            accept_changes=self._accept_changes,
        )

    def _prepare(
        self, degradation: Degradation, micro_batch: int, device: torch.device, precision: str
    ) -> OnDeviceBatch:
        note = ROUNDED if precision == "bf16" else ""
        how: dict[str, Any] = {"channels_last": self.options.train.channels_last, "deep_note": note}
        return OnDeviceBatch(degradation, self.mixer(micro_batch), device=device, **how)

    def _net(self, player: Player) -> nn.Module:
        """The network that training starts with. The main rank lists what of the initial weights was not loaded."""
        net = self.nets.make(player)
        lines = self.nets.load_initial(player, net)
        self.nets.freeze(player, net)
        if comm.is_main():
            for line in lines:
                tqdm.write(line)
        return net

    def filled(self) -> dict[str, Any]:
        """Return the options with all defaults, including those of the parts."""
        values = self.options.model_dump(mode="json", exclude_none=True)
        if self.options.task == "cyclegan":
            values["cycle"] = (self.options.cycle or Cycle()).model_dump()
        registry.fill(Options, values, TABLES, plugins=self._plugins)
        return values

    def record(self, step: int) -> None:
        """Write options.yml. If it changes at `step`, keep the old file next to it."""
        file, text = self.options.folder / "options.yml", self.resolved()
        kept = file.with_name(f"options_until_step_{step:08d}.yml")
        if step and file.exists() and file.read_text() != text and not kept.exists():
            os.replace(file, kept)
        with replacing(file) as temporary:
            temporary.write_text(text)

    def resolved(self) -> str:
        """`filled` as YAML that can be run again."""
        return yaml.safe_dump(self.filled(), sort_keys=False, allow_unicode=True)


def check_switch(train: Train, launch: Launch) -> None:
    """Raise UserError where `train.switch_ema` cannot work."""
    if train.switch_ema and (not train.ema_decay or launch.backend.startswith("zero")):
        other = f"with {launch}, which keeps a second copy of the weights" if train.ema_decay else "without an EMA"
        raise UserError(f"train.switch_ema does not work {other}; remove it")
