"""Start a run from weights of another network, from a checkpoint, and with a part of them frozen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sr.core.errors import UserError
from sr.nets import GENERATORS
from sr.nets.io.state_dicts import load_weights, save_pth
from sr.train.builder import Builder, load
from sr.train.summary import summary
from tests.helpers.training import assert_same, state

Recipe = Callable[..., Path]


def build(file: Path, *sets: str) -> Builder:
    return Builder(load(file, sets))


def saved(tmp_path: Path, **changes: Any) -> Path:
    """The weights of the recipe's generator (tests/conftest.py), with another shape as `changes` say."""
    net = GENERATORS["rrdbnet"](**{"scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4, **changes})
    save_pth(tmp_path / "other.pth", net.state_dict())
    return tmp_path / "other.pth"


@pytest.mark.parametrize(
    ("other", "lost"),
    [
        ({"scale": 4}, ["'conv_first.weight' is [8, 3, 3, 3], not [8, 12, 3, 3]"]),
        ({"scale": 1}, ["'conv_first.weight' is [8, 48, 3, 3], not [8, 12, 3, 3]"]),
        ({"scale": 8}, ["'conv_first.weight'", "'conv_up3.bias' is unknown", "'conv_up3.weight' is unknown"]),
        ({"num_in_ch": 1, "num_out_ch": 1}, ["conv_first.weight", "conv_last.bias", "conv_last.weight"]),
        ({"num_block": 2}, ["'body.1.rdb1.conv1.bias' is unknown"]),
    ],
)
def test_what_fits_is_loaded_and_the_rest_is_listed(recipe: Recipe, tmp_path: Path, other: Any, lost: Any) -> None:
    file = saved(tmp_path, **other)
    given = build(recipe(init={"generator": {"file": str(file), "strict": False}})).nets
    net = given.make("generator")
    head, *lines = given.load_initial("generator", net)
    assert head.startswith("init.generator: ")
    assert head.endswith(f"tensors loaded from {file}; not loaded:")
    for line in lost:
        assert any(line in each for each in lines)
    assert torch.equal(net.get_parameter("conv_hr.weight"), load_weights(file)[0]["conv_hr.weight"])
    strict = build(recipe(init={"generator": str(file)})).nets
    with pytest.raises(UserError, match=r"does not fit.*or set init.generator: \{file: .*, strict: false\}"):
        strict.load_initial("generator", net)


def test_a_deeper_network_keeps_its_own_blocks(recipe: Recipe, tmp_path: Path) -> None:
    start = {"file": str(saved(tmp_path)), "strict": False}
    given = build(recipe(init={"generator": start}, generator__num_block=2)).nets
    net = given.make("generator")
    before = net.get_parameter("body.1.rdb1.conv1.weight").clone()
    lines = given.load_initial("generator", net)
    assert lines[0].startswith("init.generator: 42 of 72 tensors loaded")
    assert "'body.1.rdb1.conv1.weight' is missing" in "\n".join(lines)
    assert torch.equal(before, net.get_parameter("body.1.rdb1.conv1.weight"))


def test_a_checkpoint_starts_another_run(recipe: Recipe, tmp_path: Path) -> None:
    """By its folder and by its files, both players; the generator's average is what the folder stands for."""
    first = build(recipe(train__total_steps=2)).trainer()
    first.run()
    folder = tmp_path / "runs" / "tiny" / "checkpoints" / "step_00000002"
    wanted = {"discriminator": first.players["discriminator"].raw.state_dict(), "generator": first.ema.state()}
    for init in (
        {"discriminator": str(folder), "generator": str(folder)},
        {"discriminator": str(folder / "discriminator.safetensors"), "generator": str(folder / "ema.safetensors")},
    ):
        nets = build(recipe(name="next", init=init)).nets
        for player, weights in wanted.items():
            net = nets.make(player)
            assert nets.load_initial(player, net) == []
            assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())
    nets = build(recipe(name="next", init={"generator": str(folder / "generator.safetensors")})).nets
    net = nets.make("generator")
    assert nets.load_initial("generator", net) == []
    raw = first.players["generator"].raw.state_dict()
    assert all(torch.equal(value, raw[key]) for key, value in net.state_dict().items())
    nets = build(recipe(init={"generator": str(tmp_path / "photos")})).nets
    with pytest.raises(UserError, match=r"init.generator: .*photos is a folder without ema.safetensors"):
        nets.load_initial("generator", net)


def test_frozen_parameters_stay_and_the_run_resumes(recipe: Recipe) -> None:
    file = recipe(freeze={"generator": ["body.*", "conv_first.*"], "discriminator": "conv0.*"})
    run = build(file, "train.total_steps=2").trainer()
    before = {name: value.clone() for name, value in run.players["generator"].raw.state_dict().items()}
    run.run()
    again = build(file, "train.total_steps=4").trainer()
    again.run()
    for name, value in again.players["generator"].raw.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(("body.", "conv_first.")), name
    assert "M of them frozen" in str(summary(load(file)))
    whole = build(recipe(name="whole", freeze=load(file).freeze), "train.total_steps=4").trainer()
    whole.run()
    assert_same(state(whole), state(again))


def test_a_pattern_has_to_match_and_something_has_to_train(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"'bodies.\*' matches no parameter; give patterns such as conv_first.\*, body"):
        summary(load(recipe(freeze={"generator": "bodies.*"})))
    with pytest.raises(UserError, match="no parameter is left to train"):
        summary(load(recipe(freeze={"generator": ["*"]})))


def test_models_hold_the_discriminator_when_asked(recipe: Recipe, tmp_path: Path) -> None:
    run = build(recipe(save={"discriminator": True, "every": 1, "keep_models": 2})).trainer()
    run.run()
    models = tmp_path / "runs" / "tiny" / "models"
    assert {path.name for path in models.glob("net_d_*")} == {"net_d_3.safetensors", "net_d_4.safetensors"}
    nets = build(recipe(name="next", init={"discriminator": str(models / "net_d_4.safetensors")})).nets
    net = nets.make("discriminator")
    assert nets.load_initial("discriminator", net) == []
    trained = run.players["discriminator"].raw.state_dict()
    assert all(torch.equal(value, trained[key]) for key, value in net.state_dict().items())
