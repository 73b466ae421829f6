"""The contract between a task and the engine: a step is a generator of phases."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from sr.config.options import Player
from sr.data.batch import Batch
from sr.nets.spectral import SpectralConv2d

LAYERS = (nn.Conv2d, nn.Linear, SpectralConv2d)
Terms = dict[str, Tensor]
Weight = Callable[[int], float]
"""A loss weight as a function of the optimizer step."""
Net = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Phase:
    """Losses (weighted scalars; their sum is minimised) for one player; `report` is only written down.

    output: what the losses judge, for the share of each in its gradient; None where there is no such thing.
    target: what output should have become, to compare their looks; None where that is not known.
    """

    player: str
    losses: Terms
    report: Terms = field(default_factory=dict)
    output: Tensor | None = None
    target: Tensor | None = None


class Task:
    """Computes losses and yields phases. Between two yields the engine does backward, clip, step and schedule.

    The task holds its players' modules as the engine prepared them (wrapped for gradient exchange); it knows neither
    optimizers nor processes nor options. `step` counts optimizer steps from 0.
    """

    players: ClassVar[tuple[Player, ...]]

    def step(self, batch: Batch, step: int) -> Iterator[Phase]:
        raise NotImplementedError

    def constants(self, step: int) -> tuple[float, ...] | None:
        """Return all numbers that are not tensors in the operations of this step, so that it may be replayed while they
        stay the same; None where more than these changes, such as the choice of images from a pool."""
        return None

    def report(self) -> dict[str, float]:
        """Return the log entries of the losses, on the host."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint holds in addition to the players, equal on all ranks. Collective."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`, for any number of ranks."""


class AdversarialTask(Task):
    """A task of a generator and a discriminator on pairs. conditional: the discriminator is shown the input too."""

    players = ("generator", "discriminator")

    def __init__(
        self,
        *,
        generator: nn.Module,
        discriminator: nn.Module,
        reconstruction: "ReconstructionLosses",
        gan: "GANLoss",
        conditional: bool = False,
    ) -> None:
        self.generator, self.discriminator = generator, discriminator
        self.reconstruction, self.gan, self.conditional = reconstruction, gan, conditional

    def constants(self, step: int) -> tuple[float, ...] | None:
        found = self.reconstruction.constants(step)
        return None if found is None else (*found, *self.gan.constants(step))

    def report(self) -> dict[str, float]:
        return self.reconstruction.report()


class ReconstructionLosses:
    """Named terms that judge an output by what it should be, each with its weight.

    A term is called with (output, target). One that needs more has a method
    `compare(output, *, batch, average)`, where `average` is the generator's moving average.
    """

    def __init__(self, terms: Mapping[str, tuple[Weight, Any]], average: Net | None = None) -> None:
        self.terms, self.average = dict(terms), average

    def __call__(self, output: Tensor, batch: Batch, step: int) -> Terms:
        losses = {}
        for name, (weight, loss) in self.terms.items():
            if weight(step):
                compare = getattr(loss, "compare", None)
                value = compare(output, batch=batch, average=self.average) if compare else loss(output, batch.target)
                losses[name] = weight(step) * value
        return losses

    def constants(self, step: int) -> tuple[float, ...] | None:
        """See `Task.constants`. Terms with `compare` or a cache look at more than output and target."""
        for _, loss in self.terms.values():
            if hasattr(loss, "compare") or getattr(loss, "cache", None):
                return None
        return tuple(weight(step) for weight, _ in self.terms.values())

    def watch(self, generator: nn.Module) -> None:
        """Let the terms that listen to the generator's inside (distillation) check that they can, and begin."""
        for _, loss in self.terms.values():
            if hasattr(loss, "watch"):
                loss.watch(generator)

    def report(self) -> dict[str, float]:
        """`<term>/<name>` of every term that counts something (the hits of a feature cache)."""
        reports = {name: loss.report() for name, (_, loss) in self.terms.items() if hasattr(loss, "report")}
        return {f"{name}/{key}": value for name, row in reports.items() for key, value in row.items()}


class Critic:
    """A discriminator as a loss sees it: images in 0..1 in, a list of logit maps out; its condition is fixed.

    centred: the module is shown -1..1, unless it expects 0..1. side: which of several discriminators in
    the module is meant.
    Notes the mean logits and the share judged right of the real and the fake images it is shown, without a sync.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        real: Tensor,
        fake: Tensor,
        condition: Tensor | None = None,
        boundary: float | None = None,
        centred: bool = False,
        side: str | None = None,
    ) -> None:
        self.module, self.condition, self.boundary = module, condition, boundary
        self.centred = centred and not any(getattr(inner, "reads_unit_range", False) for inner in module.modules())
        self.sides = () if side is None else (side,)
        self.shown = {"real": real, "fake": fake}
        self.report: Terms = {}

    def __call__(self, images: Tensor) -> list[Tensor]:
        seen = images if self.condition is None else torch.cat([self.condition, images], dim=1)
        maps: list[Tensor] = self.module(2 * seen - 1 if self.centred else seen, *self.sides)
        for name, shown in self.shown.items():
            if images is shown:
                self._note(name, torch.cat([m.detach().float().flatten() for m in maps]))
        return maps

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The logit maps, and what each layer inside the module reads: the features that the one before it made.

        First layers are left out, known by reading as many channels as the images (with their condition) have.
        """
        channels = images.shape[1] + (0 if self.condition is None else self.condition.shape[1])
        features: list[Tensor] = []

        def collect(layer: nn.Module, inputs: tuple[Tensor]) -> None:
            if inputs[0].shape[1] != channels:
                features.append(inputs[0])

        layers = [module for module in self.module.modules() if isinstance(module, LAYERS)]
        hooks = [layer.register_forward_pre_hook(collect) for layer in layers]
        try:
            return self(images), features
        finally:
            for hook in hooks:
                hook.remove()

    def _note(self, name: str, logits: Tensor) -> None:
        self.report[f"logit_{name}"] = logits.mean()
        if self.boundary is not None:
            self.report[f"accuracy_{name}"] = ((logits > self.boundary) == (name == "real")).float().mean()


class Adversarial(Protocol):
    """A GAN loss receives the critic, not logits, so penalties and relativistic losses need no case of their own."""

    def generator(self, critic: Critic, *, real: Tensor, fake: Tensor) -> Terms: ...

    def discriminator(self, critic: Critic, *, real: Tensor, fake: Tensor) -> Terms: ...


class GANLoss:
    """The GAN loss and what is added to it (`regularizers`: penalties, feature matching).

    Its own weight applies to the generator's side alone; an added term is weighted wherever it acts, and with
    `every` = N it acts at every Nth step with N times the weight (lazy regularisation, Karras et al. 2020).
    """

    def __init__(
        self, loss: Adversarial, weight: Weight, regularizers: Sequence[tuple[Weight, Adversarial]] = ()
    ) -> None:
        self.loss, self.weight, self.regularizers = loss, weight, regularizers

    def generator(self, critic: Critic, *, real: Tensor, fake: Tensor, step: int) -> Terms:
        if not self.weight(step):
            return {}
        terms = scaled(self.loss.generator(critic, real=real, fake=fake), self.weight(step))
        for weight, extra in self._due(step):
            terms = joined(terms, scaled(extra.generator(critic, real=real, fake=fake), weight))
        return terms

    def discriminator(self, critic: Critic, *, real: Tensor, fake: Tensor, step: int) -> Terms:
        terms = self.loss.discriminator(critic, real=real, fake=fake)
        for weight, extra in self._due(step):
            terms = joined(terms, scaled(extra.discriminator(critic, real=real, fake=fake), weight))
        return terms

    def constants(self, step: int) -> tuple[float, ...]:
        """See `Task.constants`."""
        due = {id(extra): weight for weight, extra in self._due(step)}
        return (self.weight(step), *(due.get(id(extra), 0.0) for _, extra in self.regularizers))

    @property
    def boundary(self) -> float | None:
        """The logit between real and fake, for the accuracy; None for a loss without one."""
        return getattr(self.loss, "boundary", None)

    def _due(self, step: int) -> Iterator[tuple[float, Adversarial]]:
        for weight, extra in self.regularizers:
            every = getattr(extra, "every", 1)
            if step % every == 0 and weight(step):
                yield every * weight(step), extra


def joined(terms: Terms, more: Terms) -> Terms:
    """Merge two mappings of terms; terms of the same name are added."""
    return terms | {name: terms[name] + value if name in terms else value for name, value in more.items()}


def scaled(terms: Terms, weight: float) -> Terms:
    return {name: weight * value for name, value in terms.items()}


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """The module as a fixed critic: its parameters take no gradient, and calls go past the gradient exchange.

    The wrapper of DDP must not see this forward: its hooks would reduce gradients that are not there. FSDP2 puts
    other tensors in the places of the parameters while it runs, which have to be thawed too.
    """
    frozen = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    try:
        yield getattr(module, "module", module)
    finally:
        for parameter in (*frozen.values(), *(module.get_parameter(name) for name in frozen)):
            parameter.requires_grad_(True)
