"""Learning rates are pure functions of the step, and the optimizer follows them."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from sr.distributed.backends import ReplicatedBackend
from sr.train.builder import Builder, load
from sr.train.ema import EMA
from sr.train.schedules import WSD, Cosine, Linear, MultiStep, Warmup


def test_multistep_equals_torch() -> None:
    net = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.2)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5], gamma=0.5)
    ours = MultiStep(milestones=[3, 5], gamma=0.5)
    for step in range(8):
        assert ours(0.2, step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_cosine_restarts_and_ends_at_eta_min() -> None:
    cosine = Cosine(periods=[4, 8], eta_min=1e-7, total_steps=12)
    assert cosine(2e-4, 0) == pytest.approx(2e-4)
    assert cosine(2e-4, 2) == pytest.approx(1e-7 + (2e-4 - 1e-7) / 2)
    assert cosine(2e-4, 4) == pytest.approx(2e-4)
    assert cosine(2e-4, 6) == pytest.approx(1e-7 + (2e-4 - 1e-7) * (1 + math.cos(math.pi / 4)) / 2)
    assert cosine(2e-4, 12) == cosine(2e-4, 99) == 1e-7
    assert Cosine(total_steps=10)(1.0, 5) == pytest.approx(0.5)


def test_linear_holds_and_then_falls_to_zero() -> None:
    """pix2pix: 100 epochs constant, 100 epochs down."""
    linear = Linear(total_steps=8)
    assert [linear(2.0, step) for step in range(9)] == [2, 2, 2, 2, 2, 1.5, 1, 0.5, 0]
    assert Linear(constant=0.0, total_steps=4)(1.0, 1) == 0.75


def test_warmup_rises_to_the_schedule() -> None:
    warm = Warmup(MultiStep(milestones=[100]), 4)
    assert [warm(1.0, step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_the_optimizer_follows(recipe: Callable[..., Path]) -> None:
    file = recipe(schedule={"type": "multistep", "milestones": [2], "gamma": 0.1})
    engine = Builder(load(file)).trainer()
    engine.run()
    assert engine.players["generator"].rate == pytest.approx(1e-4)
    assert engine.players["discriminator"].rate == pytest.approx(1e-4)


def test_the_average_follows_the_formula_and_copies_buffers() -> None:
    net = nn.BatchNorm1d(2)
    average = EMA(ReplicatedBackend(net, torch.optim.SGD(net.parameters())), decay=0.5)
    with torch.no_grad():
        net.weight.fill_(3.0)
        net.running_mean.fill_(7.0)  # type: ignore[union-attr, operator]
    average.update(step=0)  # young: decay 1/10
    with average.unsharded() as averaged:
        assert not any(p.requires_grad for p in averaged.parameters())
    assert averaged.weight.tolist() == pytest.approx([0.1 * 1 + 0.9 * 3] * 2)
    average.update(step=1000)
    assert averaged.weight.tolist() == pytest.approx([0.5 * 2.8 + 0.5 * 3] * 2)
    assert averaged.running_mean.tolist() == [7.0, 7.0]


def test_wsd_holds_and_decays_at_the_end() -> None:
    assert [WSD(decay=0.4, total_steps=10)(1.0, step) for step in (0, 6, 7, 8, 10)] == pytest.approx(
        [1, 1, 0.75, 0.5, 0]
    )
    assert WSD(decay=0.4, shape="sqrt", floor=0.1, total_steps=10)(1.0, 7) == pytest.approx(0.1 + 0.9 * 0.5)
