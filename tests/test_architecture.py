"""The examples of ARCHITECTURE.md run as they are printed."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from sr.degrade import Degradation
from sr.degrade.resize import Downscale
from tests.helpers.program import ROOT

TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def example(name: str) -> Any:
    """Return the class `name` from the code block that defines it."""
    code = next(code for code in EXAMPLES if f"class {name}" in code)
    scope: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "ARCHITECTURE.md", "exec"), scope)
    return scope[name]


def test_examples_are_short() -> None:
    assert len(EXAMPLES) == 5
    assert all(code.count("\n") <= 30 for code in EXAMPLES)


def test_loss() -> None:
    image = torch.rand(1, 3, 8, 8)
    loss = example("LogL1")(scale=0.2)
    assert loss(image, image) == 0
    assert loss(image, 1 - image) > 0


@pytest.mark.parametrize("scale", [2, 3])
def test_network(scale: int) -> None:
    assert example("TinyNet")(scale=scale)(torch.rand(1, 3, 5, 7)).shape == (1, 3, 5 * scale, 7 * scale)


def test_degradation_stage() -> None:
    images = torch.rand(2, 3, 16, 16)
    dark = Degradation([example("Darken")(prob=1.0, lowest=0.1), Downscale()], scale=2, gt_size=None, seed=0)
    plain = Degradation([Downscale()], scale=2, gt_size=None, seed=0)
    assert dark(images, [0, 1]).lq.mean() < plain(images, [0, 1]).lq.mean()
    assert torch.equal(dark(images, [0, 1]).lq[1:], dark(images[1:], [1]).lq)  # a sample does not depend on others


def test_data_source() -> None:
    source = example("Checkerboards")(count=3, side=8)
    assert source.counts == [3]
    assert source.read(0, 1).gt.shape == (8, 8, 3)
    assert source.name(0, 1) == "checkerboard 1"


def test_backend() -> None:
    net = nn.Linear(2, 1)
    before = net.weight.detach().clone()
    backend = example("SignBackend")(net, torch.optim.SGD(net.parameters(), lr=0.5))
    backend.backward(net(torch.tensor([[1.0, -2.0]])).sum(), last=True)
    backend.step(torch.amp.GradScaler(enabled=False), limit=None, measure=False)
    assert torch.allclose(before - net.weight, torch.tensor([[0.5, -0.5]]))
