"""Activation checkpointing: equal gradients, names and outputs from fewer saved tensors."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sr.core.errors import UserError
from sr.nets.checkpointed import checkpoint_blocks
from sr.train.builder import Builder, load
from tests.helpers.training import Recipe, assert_same, engine, state
from tests.test_nets_generators import make

SWINIR: dict[str, Any] = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "drop_path_rate": 0.5}


def saved_bytes(net: nn.Module, x: Tensor) -> int:
    """Run forward and backward; return the bytes of the tensors that autograd saves in the forward pass."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = net(x).square().mean()
    loss.backward()
    return sum(sizes.values())


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [("rrdbnet", {"num_feat": 8, "num_block": 6, "num_grow_ch": 4}), ("spandrel.SwinIR", SWINIR)],
)
def test_gradients_are_equal_and_memory_is_lower(kind: str, kwargs: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain, x = make(kind, 2, **kwargs).train(), torch.rand(2, 3, 16, 16)
    again = copy.deepcopy(plain)
    assert checkpoint_blocks(again) >= 2
    again = copy.deepcopy(again)  # as the backends copy it
    assert list(again.state_dict()) == list(plain.state_dict())
    assert saved_bytes(again, x) < 0.6 * saved_bytes(plain, x)
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), again.eval()(x))


def test_a_run_with_it_gives_the_same_weights(recipe: Recipe) -> None:
    part = {"type": "rrdbnet", "num_feat": 8, "num_block": 2, "num_grow_ch": 4}
    plain = engine(recipe(name="plain", generator=part), "train.total_steps=2")
    plain.run()
    again = engine(recipe(name="again", generator=part), "train.total_steps=2", "train.checkpoint_activations=true")
    again.run()
    assert_same(state(plain), state(again))


def test_networks_without_blocks_are_refused(recipe: Recipe) -> None:
    part = {"type": "compact", "num_feat": 8, "num_conv": 2}
    options = load(recipe(generator=part), ["train.checkpoint_activations=true"])
    with pytest.raises(UserError, match=r"finds no repeated blocks in compact; remove it"):
        Builder(options).trainer()
