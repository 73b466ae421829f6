"""The first stage: a generator on fidelity alone (SRResNet, RRDB_PSNR, Real-ESRNet)."""

from collections.abc import Iterator

from torch import nn

from sr.data.batch import Pair
from sr.tasks.task import Fidelity, Phase, Task


class PSNR(Task):
    """Minimise the distance to the target, nothing else."""

    players = ("generator",)

    def __init__(self, *, generator: nn.Module, fidelity: Fidelity) -> None:
        self.generator, self.fidelity = generator, fidelity

    def report(self) -> dict[str, float]:
        return self.fidelity.report()

    def step(self, batch: Pair, step: int) -> Iterator[Phase]:
        output = self.generator(batch.lq)
        yield Phase("generator", self.fidelity(output, batch, step), output=output, target=batch.target)
