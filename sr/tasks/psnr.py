"""The first stage: a generator on reconstruction alone (SRResNet, RRDB_PSNR, Real-ESRNet)."""

from collections.abc import Iterator

from torch import nn

from sr.data.batch import Batch
from sr.tasks.task import Phase, ReconstructionLosses, Task


class PSNR(Task):
    """Minimise the distance to the target, nothing else."""

    players = ("generator",)

    def __init__(self, *, generator: nn.Module, reconstruction: ReconstructionLosses) -> None:
        self.generator, self.reconstruction = generator, reconstruction

    def constants(self, step: int) -> tuple[float, ...] | None:
        return self.reconstruction.constants(step)

    def report(self) -> dict[str, float]:
        return self.reconstruction.report()

    def step(self, batch: Batch, step: int) -> Iterator[Phase]:
        output = self.generator(batch.lq)
        yield Phase("generator", self.reconstruction(output, batch, step), output=output, target=batch.target)
