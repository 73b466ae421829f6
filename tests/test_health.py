"""Gradient shares add up, image statistics are correct, and warnings appear once with the option to change."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from sr.tasks import Phase
from sr.train import diagnostics


def test_shares_are_those_of_the_gradients_at_the_output() -> None:
    output = torch.ones(1, 3, 4, 4, requires_grad=True)
    phase = Phase("generator", {"a": 3 * output.sum(), "b": output.sum(), "c": torch.zeros(())}, output=output)
    found = {name: value.item() for name, value in diagnostics.shares(phase)[0].items()}
    shares = {"share_a": 0.75, "share_b": 0.25, "share_c": 0.0}
    assert found == pytest.approx(shares | {"ratio_a": 0.75, "ratio_b": 0.25, "ratio_c": 0.0})
    assert output.grad is None
    assert diagnostics.shares(Phase("discriminator", {"real": torch.ones(())})) == ({}, None)


def test_measuring_leaves_the_way_through_the_net_and_nothing_else() -> None:
    net = nn.Conv2d(3, 3, 3)
    output = net(torch.rand(2, 3, 8, 8))
    losses = {"a": output.square().mean(), "b": 0.1 * output.abs().mean()}
    wanted = torch.autograd.grad(sum(losses.values()), net.weight, retain_graph=True)[0]
    rest = diagnostics.shares(Phase("generator", losses, output=output))[1]
    assert rest is not None
    assert torch.allclose(torch.autograd.grad(rest, net.weight, retain_graph=True)[0], wanted, rtol=1e-5)
    losses["c"] = net.bias.square().mean()  # not through the output: `rest` would lose it
    assert diagnostics.shares(Phase("generator", losses, output=output))[1] is None


def test_looks_see_blur_noise_and_colour() -> None:
    target = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    same = diagnostics.looks(target, target)
    assert same["sharpness"].item() == pytest.approx(1.0)
    assert same["colour"].item() == 0.0
    assert diagnostics.looks(functional.avg_pool2d(target, 3, 1, 1), target)["sharpness"] < 0.5
    shifted = diagnostics.looks(target + torch.tensor([0.1, 0.0, -0.1]).view(3, 1, 1), target)
    assert shifted["colour"].item() == pytest.approx(0.2 / 3, rel=1e-4)
    assert shifted["sharpness"].item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("values", "word", "entries"),
    [
        ({"d/accuracy_real": 1.0, "d/accuracy_fake": 0.99}, "optimizer.discriminator.lr", 10),
        ({"g/share_gan": 0.9}, "losses.gan.weight", 10),
        ({"g/sharpness": 0.3, "g/pixel": 0.01}, "losses.perceptual.weight", 50),
        ({"g/colour": 0.05}, "losses.colour", 10),
    ],
)
def test_a_lasting_pattern_is_reported_once_with_the_option_to_change(
    values: dict[str, float], word: str, entries: int
) -> None:
    diagnosis = diagnostics.Diagnosis()
    diagnosis.observe({"g/pixel": 0.1, "g/colour": 0.001, "g/sharpness": 0.9})
    said = [diagnosis.observe(values) for _ in range(entries + 20)]
    assert [number for number, lines in enumerate(said, 1) if lines] == [entries]
    assert word in said[entries - 1][0]


def test_a_pattern_that_stops_is_not_reported() -> None:
    diagnosis = diagnostics.Diagnosis()
    for number in range(60):
        share = 0.1 if number % 7 == 0 else 0.9
        assert diagnosis.observe({"g/share_gan": share, "d/accuracy_real": 1.0, "d/accuracy_fake": 0.5}) == []
