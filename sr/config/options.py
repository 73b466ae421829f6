"""The schema of options files, nested like the objects they build. All errors are reported together, with their lines.

This module does not import torch, so that errors are reported without delay. The keys of a part (`{type: ...}`) are the
parameters of its constructor, which `resolve` finds in the tables.
"""

import json
from collections.abc import Container, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from sr.config import registry
from sr.config.registry import PartOf, Problem, Tables
from sr.config.yaml_source import Document
from sr.core.errors import UserError

Part = dict[str, Any]
Files = str | list[str]
Metric = Literal["psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "l1", "sharpness", "chroma", "lpips", "dists", "niqe"]
RGB_METRICS = frozenset({"psnr_y", "ssim_y", "chroma", "lpips", "dists", "niqe"})
"""Metrics that are defined for grey and RGB images only."""
_TERM: Any = {"anyOf": [{"$part": "losses"}, {"type": "object", "not": {"required": ["type"]}}]}


class Section(BaseModel):
    """A section with fixed keys: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Make(Section):
    """Shards to write before training starts, unless they exist (see `sr shard`)."""

    photos: Files = Field(description="Folder, file, or list of these, with the images to cut.")
    lq: str | None = Field(default=None, description="Folder with the LR images of the same names, to write pairs.")
    size: PositiveInt = Field(default=480, description="Side of a sub-image in pixels.")
    step: PositiveInt = Field(default=240, description="Distance between two sub-images in pixels.")
    format: Literal["png", "jpg", "webp", "npy"] = Field(default="png", description="Format of the sub-images.")
    per_shard: PositiveInt = Field(default=1000, description="Sub-images in a shard.")
    min_side: NonNegativeInt = Field(default=0, description="Drop images whose shorter side is below this.")
    max_side: NonNegativeInt = Field(default=0, description="Drop images whose longer side is above this; 0: no limit.")
    blockiness: NonNegativeFloat = Field(
        default=0.0, description="Drop images with stronger JPEG blocks; 1: none, 0: no limit."
    )
    blur: NonNegativeFloat = Field(
        default=0.0, description="Drop images whose variance of the Laplacian is below this."
    )
    dedupe: NonNegativeInt | None = Field(
        default=None,
        le=16,
        description="Drop near-duplicates: perceptual hashes of 64 bits that differ in at most so many.",
    )


class Data(Section):
    """Where samples come from, and how they are cut."""

    source: Annotated[Part, PartOf("sources")] = Field(description="Where the images come from.")
    gt_size: PositiveInt = Field(description="Side of the ground truth crop in pixels; `scale` divides it.")
    batch_size: PositiveInt = Field(
        description="Samples per optimizer step, over all processes and accumulated micro-batches."
    )
    degrade_size: PositiveInt | None = Field(
        default=None,
        description="Side of the crop that is degraded and then cropped to `gt_size`; default: `gt_size`. Real-ESRGAN "
        "uses 400 for 256. `gt_size` + 32 takes a third less time; it mirrors the border where 400 has neighbors.",
    )
    lq_bits: Literal[8, 16] | None = Field(
        default=None,
        description="Depth to which synthesized LR images are rounded; default: that of the ground truth.",
    )
    load_size: PositiveInt | None = Field(
        default=None, description="Translation: pairs are resized to this side, then cropped."
    )
    direction: Literal["a_to_b", "b_to_a"] = Field(
        default="a_to_b", description="Translation: which image of a pair is the input, and which the target."
    )
    workers: NonNegativeInt = Field(
        default=4, description="Processes that decode images, per training process; 0: decode in the training process."
    )
    flip: bool = Field(default=True, description="Mirror a random half of the samples horizontally.")
    rotate: bool = Field(default=False, description="Also rotate samples by random multiples of 90 degrees.")
    max_bad_fraction: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Largest share of unreadable samples, which are replaced by the next one; above it, the run stops.",
    )
    make: Make | None = Field(default=None, description="Shards to write before training starts.")


class Train(Section):
    """Length, precision and safety of the training loop."""

    total_steps: PositiveInt = Field(description="Optimizer steps of the run.")
    accumulate: PositiveInt = Field(
        default=1,
        description="Micro-batches per optimizer step: more of them need less memory and give the same batch.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="Precision of the forward and backward pass; auto: bf16 if the device supports it, else fp32.",
    )
    channels_last: bool = Field(
        default=True, description="Store images and weights with channels last, which is faster."
    )
    compile: Literal["auto"] | bool = Field(
        default="auto",
        description="Fuse operations by torch.compile. Needs a C++ compiler (on a GPU: Triton), and a minute or two "
        "before the first step; later starts read the result from `$SR_HOME/compiled` or `~/.cache/sr/compiled`. The "
        "discriminator is compiled only if the GAN loss has no `regularizers`. auto: the generator of a run of at "
        "least 10000 steps on CUDA, in one process or under DDP, if it is a network of sr with repeated blocks. If "
        "compilation fails, training continues without.",
    )
    cuda_graph: Literal["auto"] | bool = Field(
        default="auto",
        description="Record the forward and backward pass of a step as CUDA graphs and replay them: a few launches "
        "instead of thousands. auto: on one GPU in bf16 or fp32, without `accumulate`, where memory suffices, and if "
        "the first replay has the gradients of a step without graphs. Steps that log run without.",
    )
    checkpoint_activations: bool = Field(
        default=False,
        description="Recompute the activations of the generator's repeated blocks in the backward pass instead of "
        "storing them: less memory, one more forward pass per step, the same gradients. In one process or under DDP.",
    )
    recompute: Literal["auto"] | bool = Field(
        default="auto",
        description="Copy the inputs of RRDBNet's convolutions again in the backward pass on a GPU instead of storing "
        "them: a third of the memory of the dense blocks, 5 % more kernel launches, the same gradients. auto: where "
        "storing them would take more than a quarter of the free memory.",
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="Largest norm of the gradients of each player; default: no clipping."
    )
    ema_decay: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="Decay of the moving average of the weights, which is validated and saved; 0: off.",
    )
    switch_ema: NonNegativeInt = Field(
        default=0,
        description="Steps between two times when training continues from the moving average (Switch EMA, Li et al. "
        "2024, arXiv:2402.09240); 0: never. Not with ZeRO.",
    )
    timeout: float = Field(
        default=600,
        gt=0,
        description="Seconds that a step, and each wait for another process, may take before all processes end.",
    )
    check_ranks_every: NonNegativeInt = Field(
        default=1000, description="Steps between two comparisons of the weights of all ranks; 0: never."
    )


class ValidationSet(Section):
    """Image files (`hr`, with or without `lr`), or a whole `source` of pairs."""

    hr: Files | None = Field(default=None, description="Ground truth images.")
    lr: Files | None = Field(
        default=None,
        description="LR images of the same names; default: made from `hr` by MATLAB's bicubic, rounded to 8 bit.",
    )
    source: Annotated[Part, PartOf("sources")] | None = Field(
        default=None, description="A source of pairs, instead of files."
    )
    size: PositiveInt | None = Field(default=None, description="Pairs of `source` are resized to this side.")


class ValidationSection(Section):
    """When the model is measured, and on which images."""

    sets: dict[str, ValidationSet] = Field(default={}, description="Validation sets by name.")
    every: PositiveInt = Field(default=5000, description="Steps between two validations.")
    metrics: list[Metric] = Field(
        default=[], description="What is measured; default: the metrics that papers of the task report."
    )
    best: Metric | None = Field(
        default=None,
        description="Metric that chooses models/net_g_best; default: psnr_y, or psnr_rgb for images other than gray "
        "and RGB. For GANs, because PSNR prefers blurred images: the first of lpips, niqe (super-resolution only) and "
        "psnr_y that can be measured.",
    )
    pictures: NonNegativeInt = Field(default=4, description="Images of each set that are drawn.")


class Save(Section):
    """When checkpoints and models are written, and how many are kept."""

    every: PositiveInt = Field(default=5000, description="Steps between two checkpoints.")
    keep: PositiveInt = Field(default=3, description="Checkpoints to keep, the newest ones.")
    keep_models: PositiveInt = Field(
        default=20, description="Models to keep, the newest ones; the best is always kept."
    )
    fallback: bool = Field(
        default=False, description="Resume from the newest good checkpoint if the newest one is damaged."
    )
    discriminator: bool = Field(
        default=False,
        description="Also write models/net_d_STEP.safetensors with each checkpoint, to start other runs from.",
    )


class Log(Section):
    """How often, and what, the log records."""

    every: PositiveInt = Field(default=100, description="Steps between two entries.")
    samples: bool = Field(default=False, description="Also write the sample positions of each step to samples.jsonl.")
    trackers: list[str | Annotated[Part, PartOf("trackers")]] = Field(
        default=[{"type": "tensorboard"}],
        description="Where scalars, validation images and options go, besides log.jsonl: `[tensorboard, wandb]`.",
    )


class Cycle(Section):
    """CycleGAN only."""

    identity: float = Field(
        default=0.5, ge=0, description="Weight of the identity terms relative to that of the cycle."
    )
    pool: NonNegativeInt = Field(
        default=50, description="Generated images that are kept for each discriminator, over all processes."
    )


class Losses(BaseModel):
    """`gan` is the adversarial loss, every other name a loss on the output; without a `type`, its name is the type."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": _TERM})
    __pydantic_extra__: dict[str, Annotated[Part, PartOf("losses")]]
    gan: Annotated[Part, PartOf("gan")] | None = Field(default=None, description="The adversarial loss.")

    @property
    def reconstruction(self) -> dict[str, Part]:
        return self.__pydantic_extra__


class InitFile(Section):
    """Weights to start from, with how to load them."""

    file: str = Field(description="A model file, a file of a checkpoint, or the folder of a checkpoint.")
    strict: bool = Field(
        default=True,
        description="false loads the tensors that fit by name and shape, and lists the others: for a network of "
        "another scale, depth or number of channels.",
    )


Player = Literal["generator", "discriminator"]
Init = str | InitFile | dict[str, str | InitFile]


class Options(Section):
    """A whole run."""

    name: str = Field(
        pattern=r"^\w[\w.-]*$", description="Name of the run; outputs are written to the folder `out`/`name`."
    )
    task: Literal["psnr", "sr_gan", "pix2pix", "cyclegan"] = Field(
        description="What is trained: a generator alone (psnr), with a discriminator (sr_gan), or an image translation."
    )
    scale: Literal[1, 2, 3, 4, 8] = Field(default=1, description="Upscaling factor of the generator.")
    seed: NonNegativeInt = Field(
        default=0, description="Seed of the initial weights, the sample order and all augmentations."
    )
    out: str = Field(default="runs", description="Folder of all runs.")
    generator: Annotated[Part, PartOf("generators")] = Field(description="The network that makes images.")
    discriminator: Annotated[Part, PartOf("discriminators")] | None = Field(
        default=None, description="The network that judges them; for every task except psnr."
    )
    init: dict[Player, Init] = Field(
        default={},
        description="Weights from which a player starts: a file, or a mapping with the keys below. For "
        "CycleGAN also one file for each of its two networks (a_to_b and b_to_a; a and b).",
    )
    freeze: dict[Player, Files] = Field(
        default={},
        description="Patterns of parameters of a player that are not trained; `*` stands for any characters, as in "
        "`body.*`.",
    )
    losses: Losses = Field(description="The losses of the generator, by name.")
    cycle: Cycle | None = Field(default=None, description="Cycle and identity terms.")
    degrade: list[Annotated[Part, PartOf("degrade")]] = Field(
        default=[], description="Stages that make the LR image from the ground truth, in order; none for pairs."
    )
    augment: list[Annotated[Part, PartOf("augment")]] = Field(
        default=[],
        description="Mixing augmentations of the pairs, in order, each with its own probability; the partner of a "
        "sample is the next one in the micro-batch.",
    )
    data: Data = Field(description="Training data.")
    optimizer: dict[Player, Annotated[Part, PartOf("optimizers")]] = Field(description="An optimizer for each player.")
    schedule: Annotated[Part, PartOf("schedules")] = Field(
        default={"type": "constant"}, description="Learning rate over the steps, for all players."
    )
    train: Train = Field(description="The training loop.")
    validation: ValidationSection = Field(default=ValidationSection(), description="Measurements during training.")
    save: Save = Field(default=Save(), description="Checkpoints and models.")
    log: Log = Field(default=Log(), description="log.jsonl and trackers.")

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
    def best_metrics(self) -> list[Metric]:
        """The metrics that may choose the best model. The first that can be measured here does."""
        if self.validation.best is not None:
            return [self.validation.best]
        if not self.measured_as_rgb:
            return ["psnr_rgb"]
        perceptual: list[Metric] = ["lpips", "niqe"] if self.task == "sr_gan" else ["lpips"]
        return [*([] if self.task == "psnr" else perceptual), "psnr_y"]

    @property
    def degrade_size(self) -> int:
        return self.data.degrade_size or self.data.gt_size


def resolve(document: Document, tables: Tables, *, plugins: bool = True) -> Options:
    """Return the typed options. Raises one UserError with a line for each error in the file."""
    values = _with_types(document.values, tables["losses"].rows)
    problems = registry.check_model(Options, values, tables, plugins=plugins)
    if not problems:
        options = Options.model_validate_json(json.dumps(values, default=str))
        problems = contradictions(options)
    if problems:
        shown = sorted({(document.where(p.path), ".".join(map(str, p.path)), p.message) for p in problems}, key=_order)
        raise UserError(
            "\n".join(f"{where}  {key}: {message}" if key else f"{where}  {message}" for where, key, message in shown)
        )
    return options


def _with_types(values: dict[str, Any], rows: Container[str]) -> dict[str, Any]:
    values, losses, log = dict(values), values.get("losses"), values.get("log")
    if isinstance(log, Mapping) and isinstance(log.get("trackers"), list):
        named = [{"type": one} if isinstance(one, str) else one for one in log["trackers"]]
        values["log"] = {**log, "trackers": named}
    if not isinstance(losses, Mapping):
        return values
    typed = {k: {"type": k, **part} if k in rows and isinstance(part, Mapping) else part for k, part in losses.items()}
    return {**values, "losses": typed}


def _order(row: tuple[str, str, str]) -> tuple[int, str]:
    line = row[0].rpartition(":")[2]
    return (int(line) if line.isdigit() else 1 << 30, row[1])


def contradictions(options: Options) -> list[Problem]:
    """Return the contradictions between keys that are valid on their own."""
    found = [*_players(options), *_translation(options), *_data(options), *_augment(options)]
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
    kinds = [part["type"] for part in options.log.trackers if isinstance(part, dict)]
    for kind in {kind for kind in kinds if kinds.count(kind) > 1}:
        yield "log.trackers", f"{kind} is named twice; remove one"
    if options.save.discriminator and not adversarial:
        yield "save.discriminator", f"task {task} has no discriminator; remove it"
    if not options.losses.reconstruction and options.losses.gan is None:
        yield "losses", "no loss term; add one, such as pixel: {type: l1}"


RGB_STAGES = "jpeg", "libjpeg", "webp", "video", "palette", "chroma", "screentone"
RGB_TERMS = "perceptual", "vgg19", "style", "lpips", "dists", "contextual", "fdl", "oklab"


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
    if not options.measured_as_rgb:
        count, asked = options.channels[1], options.validation
        for key, metrics in (("best", [asked.best]), ("metrics", asked.metrics)):
            for metric in RGB_METRICS.intersection(metrics):
                problem = f"{metric} is for grey or RGB images, not for {count} channels; set it to psnr_rgb"
                yield f"validation.{key}", problem
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
    if data.make is not None and {taken, made} - {1, 3}:
        yield "data.make", f"makes RGB shards, and the generator takes {taken} channels; set data.source to a folder"
    if options.degrade_size < data.gt_size:
        yield "data.degrade_size", f"{options.degrade_size} is smaller than gt_size {data.gt_size}, raise it"
    if data.batch_size % accumulate:
        yield "data.batch_size", f"{data.batch_size} does not split into accumulate {accumulate} parts; use a multiple"
    yield from _colors_of_stages(options)


def _colors_of_stages(options: Options) -> Contradictions:
    taken, made = options.channels
    if taken == made and made not in (1, 3):
        for path, kind in _stages_of(options.degrade, RGB_STAGES, "degrade"):
            yield path, f"{kind} is for grey and RGB, not for {made} channels; remove this stage"


def _augment(options: Options) -> Contradictions:
    taken, made = options.channels
    micro = options.data.batch_size // options.train.accumulate
    for place, part in enumerate(options.augment):
        path, kind = f"augment.{place}", part["type"]
        if options.task == "cyclegan":
            yield path, f"{kind} mixes pairs, and CycleGAN has none; remove it"
        elif kind != "cutblur" and micro % 2:
            yield path, f"{kind} needs an even number of samples, not {micro}; change data.batch_size"
        elif kind == "cutblur" and (options.task == "pix2pix" or taken != made):
            yield path, "cutblur shows the target as the input, so it is for restoration only; remove it"


def _stages_of(stages: Any, kinds: Container[str], path: str) -> Contradictions:
    """Yield path and type of all stages of these types, also of stages nested in others."""
    for key, inner in enumerate(stages) if isinstance(stages, list) else stages.items():
        if isinstance(inner, dict) and inner.get("type") in kinds:
            yield f"{path}.{key}", inner["type"]
        elif isinstance(inner, dict | list):
            yield from _stages_of(inner, kinds, f"{path}.{key}")
