"""Optimizers of other packages: steps, exact resume, parameter groups."""

import pytest
import torch
from torch import Tensor, nn

from sr.config.registry import check, find, make
from sr.core.errors import UserError
from sr.distributed.backends.ddp import ReplicatedBackend, flatten, unflatten
from sr.train.builder import TABLES
from sr.train.optimizers import KNOWN, build

NAMES = [f"{package}.{name}" for package, names in KNOWN.items() for name in names]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 3, 3, padding=1))


def backend(part: dict[str, object]) -> ReplicatedBackend:
    made = net()
    assert check(dict(part), "optimizers", TABLES) == []
    return ReplicatedBackend(
        made, build(lambda groups: make(part, "optimizers", TABLES, groups), made, name="generator")
    )


def steps(one: ReplicatedBackend, first: int, last: int) -> None:
    for number in range(first, last):
        torch.manual_seed(number)
        x = torch.rand(2, 3, 8, 8)
        (one.raw(x) - x).square().mean().backward()
        one.optimizer.step()
        one.optimizer.zero_grad()


def through_a_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    from safetensors.torch import load, save

    return load(save({key: value.contiguous().clone() for key, value in state.items()}))


@pytest.mark.parametrize("name", ["adam", *NAMES])
def test_resume_is_exact(name: str) -> None:
    if name.startswith("pytorch_optimizer"):
        pytest.importorskip("pytorch_optimizer")
    part = {"type": name, "lr": 1e-3}
    whole, start, rest = backend(part), backend(part), backend(part)
    before = whole.raw[0].weight.detach().clone()
    steps(whole, 0, 6)
    steps(start, 0, 3)
    rest.load(through_a_file(start.state()))
    steps(rest, 3, 6)
    assert not torch.equal(whole.raw[0].weight, before)
    for key, value in whole.state().items():
        assert torch.equal(value, rest.state()[key]), key


def test_groups_by_pattern() -> None:
    made = net()
    settings = {"no_decay": ["*.bias"], "lr_scale": {"0.*": 0.1}}
    optimizer = build(lambda groups: torch.optim.AdamW(groups, lr=1.0), made, name="generator", **settings)
    found = {
        key: (group["lr"], group["weight_decay"])
        for key, parameter in made.named_parameters()
        for group in optimizer.param_groups
        if any(parameter is one for one in group["params"])
    }
    assert found["0.weight"] == (0.1, 0.01)
    assert found["0.bias"] == (0.1, 0.0)
    assert found["2.weight"] == (1.0, 0.01)
    assert found["2.bias"] == (1.0, 0.0)
    with pytest.raises(UserError, match=r"optimizer.generator.no_decay: 'nothing' matches no parameter"):
        build(lambda groups: torch.optim.AdamW(groups), made, name="generator", no_decay=["nothing"])


def test_names_that_cannot_be_used() -> None:
    for name, words in (
        ("timm.Lyon", r"Did you mean 'Lion'"),
        ("timm.adan", r"Did you mean 'timm.Adan'"),
        ("pytorch_optimizer.Lion", r"Did you mean 'timm.Lion'"),
        ("torch.AdamW", r"Did you mean 'adamw'"),
        ("prodigy", r"Did you mean 'pytorch_optimizer.Prodigy'"),
        ("pytorch_optimizer.ScheduleFreeAdamW", r"its own, and needs another loop; use adamw"),
        ("pytorch_optimizer.Fromage", r"no optimizer pytorch_optimizer.Fromage here"),
    ):
        with pytest.raises(UserError, match=words):
            find(TABLES["optimizers"], name)


def test_nested_state_survives() -> None:
    state = {"a": [[torch.ones(2), []], torch.zeros(1)], "b": 3, "c": 0.5, "d": True, "e": []}
    back = unflatten(dict(flatten(state)))
    assert torch.equal(back["a"][0][0], torch.ones(2))
    assert back["a"][0][1] == []
    assert (back["b"], back["c"], back["d"], back["e"]) == (3, 0.5, True, [])
    assert isinstance(back["d"], bool)
