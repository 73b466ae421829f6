"""Recorded steps have the numbers of steps without graphs. On a CPU, a replay runs the recorded function again."""

import random
from typing import Any

import pytest
import torch

from sr.core.errors import UserError
from sr.distributed.rng import reseed
from sr.train.step_graph import StepGraph
from sr.train.trainer import Trainer
from tests.helpers.training import Recipe, assert_same, engine, state

SMALL = "data.gt_size=16", "train.total_steps=6", "log.every=4"


class Rerun:
    """A graph that runs its function again and writes the results to the tensors of the first run."""

    def __init__(self, run: Trainer) -> None:
        self.parameters = [p for player in run.players.values() for p in player.backend.parameters.values()]
        self.replays = 0

    def record(self, work: Any) -> Any:
        self.work, self.phase = work, work()
        self.gradients = {p: p.grad for p in self.parameters if p.grad is not None}
        return self.phase

    def replay(self) -> None:
        self.replays += 1
        again = self.work()
        for old, new in ((self.phase.losses, again.losses), (self.phase.report, again.report)):
            for name, value in old.items():
                value.detach().copy_(new[name].detach())
        for parameter, gradient in self.gradients.items():
            gradient.copy_(parameter.grad)
            parameter.grad = None


def graphed(run: Trainer, make: Any = None) -> StepGraph:
    run.graphs = StepGraph(
        run.task,
        run.players,
        autocast=run._autocast,
        reseed=lambda step: reseed(run.options.seed, step, 0),
        make=lambda: make or (lambda: Rerun(run)),
        has_room=lambda: True,
    )
    return run.graphs


@pytest.mark.parametrize("task", [pytest.param("sr_gan", marks=pytest.mark.slow), "psnr"])
def test_replayed_steps_are_those_without_graphs(recipe: Recipe, task: str) -> None:
    psnr = {"task": "psnr", "discriminator": None, "losses__gan": None, "optimizer__discriminator": None}
    parts = psnr if task == "psnr" else {}
    plain, run = (engine(recipe(name=name, **parts), *SMALL) for name in ("plain", "graphs"))
    plain.run()
    graphs = graphed(run)
    run.run()
    assert graphs.off == ""
    assert [phase.player for phase in graphs.recorded] == ["generator", "discriminator"][: len(run.players)]
    assert all(phase.graph.replays >= 4 for phase in graphs.recorded)
    assert_same(state(plain), state(run))


@pytest.mark.slow
def test_a_changed_weight_is_recorded_again(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = "{type: ramp, to: 0.5, start: 4}"
    sets = (*SMALL, "train.total_steps=8", f"losses.gan.weight={weight}")
    plain, run = (engine(recipe(name=name), *sets) for name in ("plain", "graphs"))
    plain.run()
    graphs = graphed(run)
    recorded, record = [], graphs._record

    def noted(batch: Any, step: int, key: Any) -> bool:
        recorded.append(step)
        return record(batch, step, key)

    monkeypatch.setattr(graphs, "_record", noted)
    run.run()
    assert len(recorded) == 2
    assert_same(state(plain), state(run))


FAULTS = {
    "raises": RuntimeError("operation not permitted when stream is capturing"),
    "no memory": torch.OutOfMemoryError("CUDA out of memory"),
    "another error": TypeError("unexpected"),
}


@pytest.mark.parametrize(
    "fault", ["raises", *(pytest.param(f, marks=pytest.mark.slow) for f in [*FAULTS, "differs"][1:])]
)
def test_a_graph_that_does_not_work_is_not_used(recipe: Recipe, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Rerun):
        def record(self, work: Any) -> Any:
            if fault in FAULTS:
                raise FAULTS[fault]
            return super().record(work)

        def replay(self) -> None:
            super().replay()
            for gradient in self.gradients.values():
                gradient.mul_(1.1)

    plain, run = (engine(recipe(name=name), *SMALL) for name in ("plain", "graphs"))
    plain.run()
    graphs = graphed(run, lambda: Broken(run))
    run.run()
    assert graphs.off
    assert not graphs.recorded
    assert f"train.cuda_graph: off, {graphs.off}" in "".join(capsys.readouterr())
    assert_same(state(plain), state(run))


def test_random_numbers_of_the_host_are_not_recorded(recipe: Recipe) -> None:
    """A graph would repeat them. Losses of plugins may draw them; those of sr draw on the device."""

    class Baked(Rerun):
        def record(self, work: Any) -> Any:
            self.drawn = random.getstate()
            return super().record(work)

        def replay(self) -> None:
            now = random.getstate()
            random.setstate(self.drawn)
            super().replay()
            random.setstate(now)

    run = engine(recipe(task="psnr", discriminator=None, losses__gan=None, optimizer__discriminator=None), *SMALL)
    graphs, (weight, loss) = graphed(run, lambda: Baked(run)), run.task.reconstruction.terms["pixel"]
    run.task.reconstruction.terms["pixel"] = weight, lambda *images: random.random() * loss(*images)
    run.run()
    assert "other gradients" in graphs.off


def test_graphs_that_are_asked_for_on_a_cpu_are_an_error(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="needs one process with a CUDA GPU"):
        engine(recipe(), "train.cuda_graph=true")
    assert engine(recipe()).graphs is None
