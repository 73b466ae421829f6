"""The schema of options files, nested like the objects they build. All errors are reported together, with their lines.

This module does not import torch, so that errors are reported without delay. The keys of a part (`{type: ...}`) are the
parameters of its constructor, which `resolve` finds in the tables.
"""

import json
from collections.abc import Container, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from sr.config import registry
from sr.config.registry import PartOf, Problem, Tables
from sr.config.yaml_source import Document
from sr.core.errors import UserError

Part = dict[str, Any]
Files = str | list[str]
_TERM: Any = {"anyOf": [{"$part": "losses"}, {"type": "object", "not": {"required": ["type"]}}]}


class Section(BaseModel):
    """A section with fixed keys: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Make(Section):
    """Shards to write before training starts, unless they exist (see `sr shard`)."""

    photos: Files
    lq: str | None = None
    size: PositiveInt = 480
    step: PositiveInt = 240
    format: Literal["png", "jpg", "webp", "npy"] = "png"
    per_shard: PositiveInt = 1000


class Data(Section):
    """Where samples come from. `batch_size` is global: over all processes and accumulation, per optimizer step.

    degrade_size: what is cut out of images without lq, degraded, and then cropped to gt_size. Real-ESRGAN's is 400
    for
    256; gt_size + 32 takes a third less time, and mirrors the border where 400 would have had a neighbour.
    Translation: `direction` says which image of a pair is given; pairs are resized to `load_size` before the crop.
    """

    source: Annotated[Part, PartOf("sources")]
    gt_size: PositiveInt
    batch_size: PositiveInt
    degrade_size: PositiveInt | None = None
    load_size: PositiveInt | None = None
    direction: Literal["a_to_b", "b_to_a"] = "a_to_b"
    workers: NonNegativeInt = 4
    flip: bool = True
    rotate: bool = False
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    make: Make | None = None


class Train(Section):
    """`timeout`: seconds that a step, and any wait for another process in it, may take before all processes end.
    `check_ranks_every`: steps between two comparisons of the ranks' weights; 0: never. `compile`: fuse operations
    by torch.compile, which takes a C++ compiler (on a GPU Triton) and a minute or two before the first step; the
    discriminator only where the GAN loss takes its logits alone (no `regularizers`).
    """

    total_steps: PositiveInt
    accumulate: PositiveInt = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    compile: bool = False
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    timeout: Annotated[float, Field(gt=0)] = 600
    check_ranks_every: NonNegativeInt = 1000


class ValidationSet(Section):
    """Either files, where `lr` left out is made from `hr` by MATLAB's bicubic, rounded to 8 bit; or a whole `source`
    of pairs, resized to `size` x `size` if that is given."""

    hr: Files | None = None
    lr: Files | None = None
    source: Annotated[Part, PartOf("sources")] | None = None
    size: PositiveInt | None = None


class ValidationSection(Section):
    """`best`: the metric that chooses models/net_g_best; default: psnr_y, or psnr_rgb for other images than grey and
    RGB. `pictures`: how many of each set are drawn."""

    sets: dict[str, ValidationSet] = {}
    every: PositiveInt = 5000
    best: Literal["psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "l1"] = "psnr_y"
    pictures: NonNegativeInt = 4


class Save(Section):
    """`keep`: checkpoints, and `keep_models`: models, of the newest steps; the best is always kept. `fallback`: resume
    from the newest good checkpoint where the newest is damaged. `discriminator`: also write
    models/net_d_STEP.safetensors with each checkpoint, to start other runs from."""

    every: PositiveInt = 5000
    keep: PositiveInt = 3
    keep_models: PositiveInt = 20
    fallback: bool = False
    discriminator: bool = False


class Log(Section):
    """`samples`: also which global sample positions each step used, in samples.jsonl."""

    every: PositiveInt = 100
    samples: bool = False


class Cycle(Section):
    """For CycleGAN only. `identity`: weight of the identity terms over that of the cycle; `pool`: fakes kept for each
    discriminator, over all processes."""

    identity: Annotated[float, Field(ge=0)] = 0.5
    pool: NonNegativeInt = 50


class Losses(BaseModel):
    """`gan` is the adversarial loss, every other name a term on the output; without a type, of the type of its name."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": _TERM})
    __pydantic_extra__: dict[str, Annotated[Part, PartOf("losses")]]
    gan: Annotated[Part, PartOf("gan")] | None = None

    @property
    def reconstruction(self) -> dict[str, Part]:
        return self.__pydantic_extra__


class InitFile(Section):
    """Weights to start from: a model file, a file of a checkpoint, or the folder of a checkpoint.

    `strict`: false loads the tensors that fit by name and shape, and lists the others. For a network of another scale,
    depth or number of channels.
    """

    file: str
    strict: bool = True


Player = Literal["generator", "discriminator"]
Init = str | InitFile | dict[str, str | InitFile]


class Options(Section):
    """A whole run, written to the folder `out`/`name`.

    `init` maps a player to the weights it starts from; for CycleGAN also one file for each of its two networks (a_to_b
    and b_to_a; a and b). `freeze` maps a player to patterns of parameters that are not trained: `*` stands for any
    characters, as in `body.*`.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    task: Literal["psnr", "sr_gan", "pix2pix", "cyclegan"]
    scale: Literal[1, 2, 3, 4, 8] = 1
    seed: NonNegativeInt = 0
    out: str = "runs"
    generator: Annotated[Part, PartOf("generators")]
    discriminator: Annotated[Part, PartOf("discriminators")] | None = None
    init: dict[Player, Init] = {}
    freeze: dict[Player, Files] = {}
    losses: Losses
    cycle: Cycle | None = None
    degrade: list[Annotated[Part, PartOf("degrade")]] = []
    data: Data
    optimizer: dict[Player, Annotated[Part, PartOf("optimizers")]]
    schedule: Annotated[Part, PartOf("schedules")] = {"type": "constant"}
    train: Train
    validation: ValidationSection = ValidationSection()
    save: Save = Save()
    log: Log = Log()

    @property
    def folder(self) -> FilePath:
        return FilePath(self.out) / self.name

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels of the generator."""
        return self.generator.get("num_in_ch", 3), self.generator.get("num_out_ch", 3)

    @property
    def colorizes_lab(self) -> bool:
        return self.data.source["type"] == "colorize" and self.data.source.get("space", "lab") == "lab"

    @property
    def measured_as_rgb(self) -> bool:
        """Whether metrics of RGB apply to the output: grey is repeated, and Lab is converted."""
        ends = self.channels if self.task == "cyclegan" else self.channels[1:]
        return self.colorizes_lab or all(count in (1, 3) for count in ends)

    @property
    def degrade_size(self) -> int:
        return self.data.degrade_size or self.data.gt_size


def resolve(document: Document, tables: Tables, *, plugins: bool = True) -> Options:
    """Return the typed options. Raises one UserError with a line for each error in the file."""
    values = _with_types(document.values, tables["losses"].rows)
    problems = registry.check_model(Options, values, tables, plugins=plugins)
    if not problems:
        options = Options.model_validate_json(json.dumps(values, default=str))
        if "best" not in options.validation.model_fields_set and not options.measured_as_rgb:
            options.validation.best = "psnr_rgb"
        problems = contradictions(options)
    if problems:
        shown = sorted({(document.where(p.path), ".".join(map(str, p.path)), p.message) for p in problems}, key=_order)
        raise UserError(
            "\n".join(f"{where}  {key}: {message}" if key else f"{where}  {message}" for where, key, message in shown)
        )
    return options


def _with_types(values: dict[str, Any], rows: Container[str]) -> dict[str, Any]:
    losses = values.get("losses")
    if not isinstance(losses, Mapping):
        return values
    typed = {k: {"type": k, **part} if k in rows and isinstance(part, Mapping) else part for k, part in losses.items()}
    return {**values, "losses": typed}


def _order(row: tuple[str, str, str]) -> tuple[int, str]:
    line = row[0].rpartition(":")[2]
    return (int(line) if line.isdigit() else 1 << 30, row[1])


def contradictions(options: Options) -> list[Problem]:
    """Return the contradictions between keys that are valid on their own."""
    found = [*_players(options), *_translation(options), *_data(options)]
    steps = [[int(step) if step.isdecimal() else step for step in key.split(".")] for key, _ in found]
    return [Problem(tuple(path), message) for path, (_, message) in zip(steps, found, strict=True)]


Contradictions = Iterator[tuple[str, str]]


def _players(options: Options) -> Contradictions:
    task, adversarial = options.task, options.task != "psnr"
    players = ["generator", "discriminator"] if adversarial else ["generator"]
    for key, given in (("discriminator", options.discriminator), ("losses.gan", options.losses.gan)):
        if adversarial and given is None:
            yield key, f"task {task} needs '{key}'; add it, or set task: psnr"
        if not adversarial and given is not None:
            yield key, f"task psnr has no use for '{key}'; remove it, or set task: sr_gan"
    for name in players:
        if name not in options.optimizer:
            yield "optimizer", f"task {task} trains '{name}'; add optimizer.{name}"
    for section in ("optimizer", "init", "freeze"):
        for name in getattr(options, section).keys() - set(players):
            yield f"{section}.{name}", f"task {task} has no '{name}'; remove it"
    if options.save.discriminator and not adversarial:
        yield "save.discriminator", f"task {task} has no discriminator; remove it"
    if not options.losses.reconstruction and options.losses.gan is None:
        yield "losses", "no loss term; add one, such as pixel: {type: l1}"


RGB_TERMS = "perceptual", "vgg19", "style", "lpips", "dists"


def _translation(options: Options) -> Contradictions:
    task, data = options.task, options.data
    translates = task in ("pix2pix", "cyclegan")
    if translates and options.scale != 1:
        yield "scale", f"task {task} keeps the size; remove 'scale'"
    if not translates and "scale" not in options.model_fields_set:
        yield "scale", f"task {task} needs 'scale'; add scale: 4, or 1 where the size stays"
    if options.scale != 1 and (data.direction != "a_to_b" or data.load_size):
        yield "data", "direction and load_size are for images of one size; remove them, or set scale: 1"
    if data.load_size and data.load_size < data.gt_size:
        yield "data.load_size", f"{data.load_size} is smaller than gt_size {data.gt_size}, raise it"
    ends = ["num_out_ch", *(["num_in_ch"] if task == "cyclegan" else [])]
    odd = [count for end in ends if (count := options.generator.get(end, 3)) not in (1, 3)]
    for name in (n for n, part in options.losses.reconstruction.items() if part["type"] in RGB_TERMS and odd):
        yield f"losses.{name}", f"looks at grey or RGB images and the generator makes {odd[0]} channels; remove it"
    if not options.measured_as_rgb and options.validation.best.endswith("_y"):
        count = options.channels[1]
        yield "validation.best", f"is for grey or RGB images, not for {count} channels; set it to psnr_rgb"
    yield from _cyclegan(options) if task == "cyclegan" else _pairs(options)


def _pairs(options: Options) -> Contradictions:
    task, data, disc = options.task, options.data, options.discriminator
    if options.cycle is not None:
        yield "cycle", f"task {task} has no cycle; remove it, or set task: cyclegan"
    if data.source["type"] == "unpaired":
        yield "data.source", f"task {task} trains on pairs; give paired data, or set task: cyclegan"
    if data.source["type"] == "colorize" and data.source.get("space", "lab") == "lab" and data.direction != "a_to_b":
        yield "data.direction", "Lab goes from grey to colour; remove it, or set data.source.space: rgb"
    if task == "pix2pix" and disc and "conditional" not in disc:
        yield "discriminator", "say whether it sees the input too: conditional: true, as the paper has it, or false"
    for name, given in options.validation.sets.items():
        if options.scale == 1 and not options.degrade and given.hr is not None and given.lr is None:
            yield f"validation.sets.{name}", "hr alone would be compared with itself; add lr, or give source: {...}"


def _cyclegan(options: Options) -> Contradictions:
    data, gan = options.data, options.losses.gan or {}
    sized = [options.generator.get(key, 3) for key in ("num_in_ch", "num_out_ch")]
    if (options.cycle or Cycle()).identity and len(set(sized)) > 1:
        yield "cycle.identity", f"compares images of {sized[0]} and {sized[1]} channels; set it to 0"
    if options.discriminator and options.discriminator.get("conditional"):
        yield "discriminator.conditional", "there are no pairs to show the discriminator; remove it"
    if data.source["type"] != "unpaired":
        yield "data.source", "CycleGAN trains on two sets; give {type: unpaired, a: {...}, b: {...}}"
    if data.direction != "a_to_b":
        yield "data.direction", "CycleGAN trains both directions; remove it"
    if options.degrade:
        yield "degrade", "CycleGAN trains on images as they are; remove it"
    if not options.losses.reconstruction:
        yield "losses", "without a cycle term nothing holds the images; add cycle: {type: l1, weight: 10, range: 2}"
    for name in (n for n, part in options.losses.reconstruction.items() if part["type"] in ("ldl", "distill")):
        yield f"losses.{name}", "needs one generator and its input; choose another term for task: cyclegan"
    if any(extra.get("type") == "feature_matching" for extra in gan.get("regularizers", [])):
        yield "losses.gan.regularizers", "feature_matching compares pairs, which CycleGAN does not have; remove it"


def _data(options: Options) -> Contradictions:
    data, scale, accumulate = options.data, options.scale, options.train.accumulate
    for name, given in options.validation.sets.items():
        if (given.hr is None) == (given.source is None) or (given.lr and given.source):
            yield f"validation.sets.{name}", "give either hr (and lr), or source"
        if given.hr is not None and options.task == "cyclegan":
            yield f"validation.sets.{name}", "has no two sets; give source: {type: unpaired, ...}, or one of pairs"
    if data.make is not None and not (data.source["type"] == "shards" and isinstance(data.source.get("path"), str)):
        yield "data.make", "makes shards: set data.source to {type: shards, path: FOLDER}, or drop data.make"
    if data.gt_size % scale:
        better = data.gt_size // scale * scale or scale
        yield "data.gt_size", f"{data.gt_size} is no multiple of scale {scale}; use {better}"
    taken, made = options.channels
    if options.degrade and taken != made:
        yield (
            "degrade",
            f"makes inputs of {made} channels, and the generator takes {taken}; set num_in_ch and num_out_ch alike, "
            "or remove degrade and give lq images",
        )
    elif made not in (1, 3):
        for path in _stages_of(options.degrade, "jpeg", "degrade"):
            yield path, f"jpeg is for grey and RGB, not for {made} channels; remove this stage"
    if data.make is not None and {taken, made} - {1, 3}:
        yield "data.make", f"makes RGB shards, and the generator takes {taken} channels; set data.source to a folder"
    if options.degrade_size < data.gt_size:
        yield "data.degrade_size", f"{options.degrade_size} is smaller than gt_size {data.gt_size}, raise it"
    if data.batch_size % accumulate:
        yield "data.batch_size", f"{data.batch_size} does not split into accumulate {accumulate} parts; use a multiple"


def _stages_of(stages: Any, kind: str, path: str) -> Iterator[str]:
    """Yield the paths of all stages of a type, also of stages nested in others."""
    for key, inner in enumerate(stages) if isinstance(stages, list) else stages.items():
        if isinstance(inner, dict) and inner.get("type") == kind:
            yield f"{path}.{key}"
        elif isinstance(inner, dict | list):
            yield from _stages_of(inner, kind, f"{path}.{key}")
