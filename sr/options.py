"""Options: one strict YAML, nested like the objects it makes. Every mistake is reported at once, with its line.

This file imports no torch, so that a wrong options file is answered at once. What a part (`{type: ...}`) may hold
is known by its constructor alone; `resolve` is handed the tables and asks them.
"""

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from sr import construct
from sr.construct import PartOf, Path, Problem, Tables
from sr.errors import UserError

MAX_DEPTH, MAX_NODES = 32, 20_000
Part = dict[str, Any]
Files = str | list[str]
_TERM: Any = {"anyOf": [{"$part": "losses"}, {"type": "object", "not": {"required": ["type"]}}]}


class Section(BaseModel):
    """A fixed part of the tree: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Make(Section):
    """Shards to make before training starts, unless they are there already (see `sr shard`)."""

    photos: Files
    lq: str | None = None
    size: PositiveInt = 480
    step: PositiveInt = 240
    format: Literal["png", "jpg", "webp"] = "png"
    per_shard: PositiveInt = 1000


class Data(Section):
    """Where samples come from. `batch_size` is global: over all processes and accumulation, per optimizer step."""

    source: Annotated[Part, PartOf("sources")]
    gt_size: PositiveInt
    batch_size: PositiveInt
    crop_size: PositiveInt | None = None
    workers: NonNegativeInt = 4
    flip: bool = True
    rotate: bool = False
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
    make: Make | None = None


class Train(Section):
    total_steps: PositiveInt
    accumulate: PositiveInt = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999


class ValidationSet(Section):
    """`lr` left out: made from `hr` by MATLAB's bicubic, rounded to 8 bit."""

    hr: Files
    lr: Files | None = None


class Validation(Section):
    sets: dict[str, ValidationSet] = {}
    every: PositiveInt = 5000
    best: Literal["psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb"] = "psnr_y"
    pictures: NonNegativeInt = 4


class Save(Section):
    every: PositiveInt = 5000
    keep: PositiveInt = 3


class Log(Section):
    every: PositiveInt = 100


class Losses(BaseModel):
    """`gan` is the adversarial loss, every other name a term on the output; without a type, of the type of its name."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": _TERM})
    __pydantic_extra__: dict[str, Annotated[Part, PartOf("losses")]]
    gan: Annotated[Part, PartOf("gan")] | None = None

    @property
    def fidelity(self) -> dict[str, Part]:
        return self.__pydantic_extra__


class Options(Section):
    """A whole run. `init` maps a player to the weights it starts from; `out`/`name` is the folder of the run."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    task: Literal["psnr", "sr_gan"]
    scale: Literal[1, 2, 3, 4, 8]
    seed: NonNegativeInt = 0
    out: str = "runs"
    generator: Annotated[Part, PartOf("generators")]
    discriminator: Annotated[Part, PartOf("discriminators")] | None = None
    init: dict[Literal["generator", "discriminator"], str] = {}
    losses: Losses
    degrade: list[Annotated[Part, PartOf("degrade")]] = []
    data: Data
    optimizer: dict[Literal["generator", "discriminator"], Annotated[Part, PartOf("optimizers")]]
    schedule: Annotated[Part, PartOf("schedules")] = {"type": "constant"}
    train: Train
    validation: Validation = Validation()
    save: Save = Save()
    log: Log = Log()

    @property
    def folder(self) -> FilePath:
        return FilePath(self.out) / self.name

    @property
    def crop_size(self) -> int:
        return self.data.crop_size or self.data.gt_size


# ---- reading: YAML with the line of every key ----------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number (YAML 1.1 wants 1.0e-4, and a silent string is a trap)."""


_FLOAT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][-+]?\d+)$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


@dataclass(frozen=True)
class Document:
    """Values as written, and the line of every key: enough to point at a mistake."""

    file: str
    values: dict[str, Any]
    lines: Mapping[Path, int]
    overrides: Mapping[Path, str]

    def where(self, path: Path) -> str:
        """`train.yml:7` or `--set losses.gan.type=hinge`: the nearest written place that leads to this key."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.overrides:
                return f"--set {self.overrides[path[:length]]}"
            if path[:length] in self.lines:
                return f"{self.file}:{self.lines[path[:length]]}"
        return f"{self.file}:1"


def read(file: str | FilePath, sets: Iterable[str] = ()) -> Document:
    """Read an options file and apply `--set a.b=value` overrides. Raises UserError with file and line."""
    try:
        text = FilePath(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give the path of an options file") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8 text; give the path of a YAML options file") from None
    lines: dict[Path, int] = {}
    try:
        root = yaml.compose(text, Loader=_Loader)
        values = _value(root, (), lines, [MAX_NODES], str(file)) if root else {}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{file}:{line}  not YAML: {error.problem}; mend the line or the one above it") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{file}:1  not YAML that can be read ({error}); mend the file") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}:1  holds a {type(values).__name__}; an options file is a mapping of keys")
    document = Document(str(file), values, lines, {})
    for assignment in sets:
        document = _override(document, assignment)
    return document


def _value(node: yaml.Node, path: Path, lines: dict[Path, int], budget: list[int], file: str) -> Any:
    """Plain values of a node; notes each key's line. Bounded in depth and nodes: aliases can nest without end."""
    budget[0] -= 1
    line = node.start_mark.line + 1
    if len(path) > MAX_DEPTH or budget[0] < 0:
        raise UserError(f"{file}:{line}  nested too deep or too large; an options file needs neither: flatten it")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, i), lines, budget, file) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in mapping:
                raise UserError(f"{file}:{key_node.start_mark.line + 1}  '{key}' stands twice; keep one of them")
            here = (*path, key)
            lines[here] = key_node.start_mark.line + 1
            mapping[key] = _value(value_node, here, lines, budget, file)
        return mapping
    lines.setdefault(path, line)
    return _Loader("").construct_object(node)


def _override(document: Document, assignment: str) -> Document:
    dotted, equals, text = assignment.partition("=")
    path = tuple(int(step) if step.isdigit() else step for step in dotted.split("."))
    if not equals or not all(str(step) for step in path):
        raise UserError(f"--set {assignment}: write key.key=value, for example --set losses.gan.type=hinge")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        value = text
    target: Any = document.values
    for step in path[:-1]:
        target = _descend(target, step, assignment)
    if isinstance(target, list) and not (isinstance(path[-1], int) and path[-1] < len(target)):
        raise UserError(f"--set {assignment}: the list has {len(target)} entries; give an index from 0")
    if not isinstance(target, (dict, list)):
        raise UserError(f"--set {assignment}: '{path[-2]}' is no mapping; set it as a whole")
    target[path[-1]] = value  # type: ignore[index]
    return Document(document.file, document.values, document.lines, {**document.overrides, path: assignment})


def _descend(target: Any, step: str | int, assignment: str) -> Any:
    if isinstance(target, dict):
        if not isinstance(target.get(step), (dict, list)):
            target[step] = {}
        return target[step]
    if isinstance(target, list) and isinstance(step, int) and step < len(target):
        return target[step]
    raise UserError(f"--set {assignment}: there is no '{step}' in the options to go into; check the path")


# ---- checking --------------------------------------------------------------------------------------------------------


def resolve(document: Document, tables: Tables, *, plugins: bool = True) -> Options:
    """The typed options, or one UserError with a line for each mistake in the file."""
    values = _with_types(document.values, tables["losses"].rows)
    problems = construct.check_model(Options, values, tables, plugins=plugins)
    if not problems:
        options = Options.model_validate(values)
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
    """What is wrong between keys that are each fine by themselves."""
    problems = []
    data, adversarial = options.data, options.task == "sr_gan"
    players = ["generator", "discriminator"] if adversarial else ["generator"]
    for key, given in (("discriminator", options.discriminator), ("losses.gan", options.losses.gan)):
        path = tuple(key.split("."))
        if adversarial and given is None:
            problems.append(Problem(path, f"task sr_gan needs '{key}'; add it, or set task: psnr"))
        if not adversarial and given is not None:
            problems.append(Problem(path, f"task psnr has no use for '{key}'; remove it, or set task: sr_gan"))
    for name in players:
        if name not in options.optimizer:
            problems.append(Problem(("optimizer",), f"task {options.task} trains '{name}'; add optimizer.{name}"))
    for key in ("optimizer", "init"):
        for name in getattr(options, key):
            if name not in players:
                problems.append(Problem((key, name), f"task {options.task} has no '{name}'; remove this key"))
    if not options.losses.fidelity and options.losses.gan is None:
        problems.append(Problem(("losses",), "there is nothing to train on; add a term, such as pixel: {type: l1}"))
    if data.gt_size % options.scale:
        near = data.gt_size // options.scale * options.scale or options.scale
        problems.append(
            Problem(("data", "gt_size"), f"{data.gt_size} is no multiple of scale {options.scale}; use {near}")
        )
    if options.crop_size < data.gt_size:
        message = f"{options.crop_size} is smaller than gt_size {data.gt_size}, which is cut from it; make it larger"
        problems.append(Problem(("data", "crop_size"), message))
    if data.batch_size % options.train.accumulate:
        message = f"{data.batch_size} does not split into accumulate {options.train.accumulate} parts; use a multiple"
        problems.append(Problem(("data", "batch_size"), message))
    return problems
