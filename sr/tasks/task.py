"""The contract between a task and the engine: a step is a generator of phases."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from sr.batch import Pair

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Phase:
    """Losses (weighted scalars; their sum is minimised) for one player; `report` is only written down."""

    player: str
    losses: Terms
    report: Terms = field(default_factory=dict)


class Task:
    """Computes losses and yields phases. Between two yields the engine does backward, clip, step and schedule.

    The task holds its players' modules as the engine prepared them (wrapped for gradient exchange); it knows neither
    optimizers nor processes nor options.
    """

    players: ClassVar[tuple[str, ...]]

    def step(self, batch: Pair) -> Iterator[Phase]:
        raise NotImplementedError


class Weighted:
    """Named losses with their weights: `fidelity(output, target)` gives the weighted terms."""

    def __init__(self, terms: Mapping[str, tuple[float, Callable[[Tensor, Tensor], Tensor]]]) -> None:
        self.terms = dict(terms)

    def __call__(self, output: Tensor, target: Tensor) -> Terms:
        return {name: weight * loss(output, target) for name, (weight, loss) in self.terms.items()}


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """The module as a fixed critic: its parameters take no gradient, and calls go past the gradient exchange.

    The wrapper of DDP or DeepSpeed must not see this forward: its hooks would reduce (or refuse) gradients that
    are not there.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield getattr(module, "module", module)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class Observed:
    """A critic that also notes its mean logits on the real and the fake images it is shown, without a sync."""

    def __init__(self, critic: nn.Module, *, real: Tensor, fake: Tensor) -> None:
        self.critic, self.shown = critic, {"logit_real": real, "logit_fake": fake}
        self.report: Terms = {}

    def __call__(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.critic(images)
        for name, shown in self.shown.items():
            if images is shown:
                self.report[name] = torch.stack([m.detach().float().mean() for m in maps]).mean()
        return maps
