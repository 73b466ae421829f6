"""Translation on the engine: stopped and continued to the last bit, pool included; two processes train as one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sr.config.options import Options
from sr.core.errors import UserError
from sr.nets.io.load import open_model
from sr.train import checkpoint
from sr.train.builder import Builder, load
from tests.helpers.program import ON_CPU, TWO, sr
from tests.helpers.tiers import slow
from tests.helpers.training import assert_same, engine, state

Recipe = Callable[..., Path]
ADAM = {"type": "adam", "lr": 1e-3, "betas": [0.5, 0.999]}
COMMON: dict[str, Any] = {
    "scale": None,
    "degrade": None,
    "generator": {"type": "resnet", "num_block": 1, "num_feat": 8, "norm": "instance"},
    "discriminator": {"type": "patchgan", "num_feat": 8, "num_layers": 1, "norm": "instance"},
    "optimizer": {"generator": ADAM, "discriminator": ADAM},
    "train__ema_decay": 0.0,
    "save": {"every": 3},
}


@pytest.fixture
def facades(tmp_path: Path) -> Path:
    """Five images a | b of 40 x 80, of which b is a in other colours."""
    folder = tmp_path / "facades"
    folder.mkdir()
    for number in range(5):
        coarse = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        a = np.asarray(Image.fromarray(coarse).resize((40, 40), Image.Resampling.NEAREST))
        Image.fromarray(np.concatenate([a, 255 - a[..., ::-1]], axis=1)).save(folder / f"{number}.png")
    return folder


def pix2pix(facades: Path, **changes: object) -> dict[str, object]:
    source = {"type": "side_by_side", "path": str(facades)}
    data = {"source": source, "direction": "b_to_a", "load_size": 36, "gt_size": 32, "batch_size": 4, "workers": 0}
    losses = {"l1": {"weight": 100, "range": 2}, "gan": {"type": "vanilla"}}
    validation = {"every": 3, "best": "l1", "sets": {"own": {"source": source, "size": 32}}}
    conditional = {"discriminator": {**COMMON["discriminator"], "conditional": True}}
    return {
        **COMMON,
        **conditional,
        "task": "pix2pix",
        "data": data,
        "losses": losses,
        "validation": validation,
        **changes,
    }


def cyclegan(facades: Path, photos: Path, **changes: object) -> dict[str, object]:
    a, b = ({"type": "folder", "gt": str(folder)} for folder in (facades, photos))
    source = {"type": "unpaired", "a": a, "b": b}
    data = {"source": source, "load_size": 36, "gt_size": 32, "batch_size": 2, "workers": 0}
    losses = {"cycle": {"type": "l1", "weight": 10, "range": 2}, "gan": {"type": "lsgan"}}
    validation = {"every": 3, "best": "l1", "sets": {"own": {"source": source, "size": 32}}}
    own = {"task": "cyclegan", "cycle": {"identity": 0.5, "pool": 3}}
    return {**COMMON, **own, "data": data, "losses": losses, "validation": validation, **changes}


def test_pix2pix_trains_measures_and_opens(recipe: Recipe, facades: Path, tmp_path: Path) -> None:
    run = engine(recipe(name="p2p", **pix2pix(facades)), "train.total_steps=30")
    scores: list[float] = []
    validate = run.evaluate
    assert validate is not None

    class Noted:
        check_images = validate.check_images

        def __call__(self, net: torch.nn.Module, *, first: int | None = None):
            results = validate(net, first=first)
            if first is None:  # else: the dry run before step 1
                scores.append(results.means["own"]["l1"])
            return results

    run.evaluate = Noted()
    run.run()
    assert min(scores[-3:]) < 0.9 * scores[0]
    assert run.best["value"] == min(scores)
    model = open_model(run.models / "net_g_best.safetensors")
    assert (model.scale, model.channels, model.out_channels) == (1, 3, 3)


@pytest.mark.parametrize("task", ["cyclegan", *slow(["pix2pix"])])
def test_stopped_and_resumed_equals_undisturbed(recipe: Recipe, facades: Path, photos: Path, task: str) -> None:
    changes = pix2pix(facades, generator__dropout=True) if task == "pix2pix" else cyclegan(facades, photos)
    sets = ("train.accumulate=2", "validation.sets={}")
    whole = engine(recipe(name="whole", **changes), *sets, "train.total_steps=7")
    whole.run()
    part = recipe(name="part", **changes)
    engine(part, *sets, "train.total_steps=4").run()
    rest = engine(part, *sets, "train.total_steps=7", "data.workers=1")
    torch.rand(3)
    rest.run()
    assert_same(state(whole), state(rest))
    assert_same(whole.task.state(), rest.task.state())
    assert bool(whole.task.state()) == (task == "cyclegan")


def test_cyclegan_shows_and_measures_both_directions(recipe: Recipe, facades: Path, photos: Path) -> None:
    run = engine(recipe(name="cycle", **cyclegan(facades, photos)), "train.total_steps=1")
    assert run.evaluate is not None
    with run.ema.unsharded() as average:
        results = run.evaluate(average)
    assert results.means.keys() == {"own/a_to_b", "own/b_to_a", "own/cycle_a", "own/cycle_b"}
    assert "l1" in results.means["own/cycle_a"]
    assert results.sheets.keys() >= {"own/a_to_b", "own/b_to_a"}
    run.run()
    file = run.models / "net_g_best.safetensors"
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad(), run.ema.unsharded() as average:
        for direction in ("a_to_b", "b_to_a"):
            net = open_model(file, direction=direction).net
            assert torch.allclose(net(image), getattr(average, direction)(image), atol=1e-5)  # channels_last


def initial(options: Options) -> dict[str, torch.Tensor]:
    """The generator's weights before step 1."""
    nets = Builder(options).nets
    net = nets.make("generator")
    nets.load_initial("generator", net)
    return net.state_dict()


def test_cyclegan_starts_from_the_files_of_the_original(
    recipe: Recipe, facades: Path, photos: Path, tmp_path: Path
) -> None:
    """One for each generator and discriminator, whose names are those of the nets alone."""
    nets = Builder(load(recipe(name="other", seed=5, **cyclegan(facades, photos)))).nets
    init: dict[str, dict[str, str]] = {}
    for player in ("generator", "discriminator"):
        for side, net in nets.make(player).named_children():
            init.setdefault(player, {})[side] = str(tmp_path / f"{side}.pth")
            torch.save(net.state_dict(), init[player][side])
    started = Builder(load(recipe(name="one", init=init, **cyclegan(facades, photos)))).nets
    for player in init:
        net = started.make(player)
        started.load_initial(player, net)
        assert_same(net.state_dict(), nets.make(player).state_dict())
    swapped = recipe(name="one", init={"generator": init["discriminator"]}, **cyclegan(facades, photos))
    with pytest.raises(UserError, match=r"init.generator: there is no 'a' in .* one for each of a_to_b and b_to_a"):
        initial(load(swapped))
    pairs = recipe(name="one", init={"generator": init["generator"]}, **pix2pix(facades))
    with pytest.raises(UserError, match=r"there is no 'a_to_b' in the generator of pix2pix; give one file$"):
        initial(load(pairs))


@pytest.mark.distributed
def test_two_processes_train_pix2pix_as_one(recipe: Recipe, facades: Path, tmp_path: Path) -> None:
    """Instance norm: what an image becomes does not depend on its neighbours in the batch.

    (Adam's first steps are the gradients' signs: with a small eps the last bit of a gradient near 0, as those of the
    biases before a norm are, turns into a whole step.)
    """
    adam = {"type": "adam", "lr": 1e-3, "eps": 1.0}
    changes = pix2pix(facades, data__workers=1, optimizer={"generator": adam, "discriminator": adam})
    two = sr("train", recipe(name="two", **changes), launcher=TWO, **ON_CPU)
    assert two.returncode == 0, two.stderr
    one = sr("train", recipe(name="one", **changes))
    assert one.returncode == 0, one.stderr
    ends = [checkpoint.load(tmp_path / "runs" / name / "checkpoints" / "step_00000004") for name in ("one", "two")]
    for name, tensors in ends[0].tensors.items():
        optimizer_state = {key: value for key, value in tensors.items() if not key.startswith("exp_avg_sq")}
        assert_same(
            optimizer_state, {k: v for k, v in ends[1].tensors[name].items() if k in optimizer_state}, tolerance=2e-5
        )
