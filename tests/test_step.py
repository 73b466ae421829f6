"""What a training step costs beyond its arithmetic: no waiting for the device, and nets compiled on demand."""

import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sr.core.errors import UserError
from sr.core.signals import Stopped
from sr.data.batch import RawBatch
from sr.distributed.backends import Launch
from sr.nets.compiled import compile_net
from sr.nets.rrdbnet import RRDBNet
from sr.train import builder
from sr.train.builder import Builder, load
from sr.train.trainer import Trainer
from tests.helpers.tiers import slow

Recipe = Callable[..., Path]
WAITING = torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero, torch.ops.aten.nonzero, torch.ops.aten.equal


class Waits(TorchDispatchMode):
    """Notes operations whose result the host has to know before it can go on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in WAITING:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Layouts(TorchDispatchMode):
    """Notes operations that meet images or kernels both plane by plane and channels last, or change their layout."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, made)) if isinstance(each, torch.Tensor) and each.dim() == 4]
        if len({layout for each in tensors if (layout := self.layout(each))}) > 1 and not func.is_view:
            self.mixed.append(f"{func} of {[tuple(each.shape) for each in tensors]}")
        return made

    @staticmethod
    def layout(tensor: torch.Tensor) -> str:
        planes, last = tensor.is_contiguous(), tensor.is_contiguous(memory_format=torch.channels_last)
        return "" if planes == last else "planes" if planes else "last"  # "": one channel, one pixel, or a part


def prepared(file: Path, *sets: str) -> Trainer:
    """An engine that is given the same degraded batch at every step."""
    run = Builder(load(file, ["data.gt_size=16", "data.batch_size=2", *sets])).trainer()
    pair = run.prepare(next(run.batches(0)))
    run.prepare = lambda raw: pair
    return run


@pytest.mark.parametrize(
    ("distance", "precision"), [("l1", "fp32"), ("l1", "bf16"), *slow([("l2", "fp32"), ("charbonnier", "fp32")])]
)
def test_a_step_stays_in_one_memory_layout(recipe: Recipe, precision: str, distance: str) -> None:
    losses = {
        "pixel": {"type": distance},
        "perceptual": {"backbone": "vgg19", "weights": "random", "layers": {"conv2_2": 1.0}, "distance": distance},
        "gan": {"type": "vanilla", "weight": 1e-3, "regularizers": [{"type": "feature_matching"}]},
    }
    critic = {"type": "unet_sn", "num_feat": 8}
    run = prepared(recipe(losses=losses, discriminator=critic, log__every=100), f"train.precision={precision}")
    run.train_step(iter([RawBatch([])]))
    with Layouts() as layouts:
        run.train_step(iter([RawBatch([])]))
    assert layouts.mixed == []


@pytest.mark.parametrize("precision", ["fp16", *slow(["fp32", "bf16"])])
def test_a_step_that_does_not_log_waits_for_nothing(recipe: Recipe, precision: str) -> None:
    losses = {
        "pixel": {"type": "l1"},
        "perceptual": {"type": "vgg19", "weights": "random", "layers": {"conv2_2": 1.0}},
        "ldl": {"type": "ldl"},
        "gan": {"type": "vanilla", "weight": 1e-3, "regularizers": [{"type": "feature_matching"}]},
    }
    run = prepared(recipe(losses=losses, log__every=100), f"train.precision={precision}", "train.clip_norm=1.0")
    run.train_step(iter([RawBatch([])]))
    with Waits() as waits:
        run.train_step(iter([RawBatch([])]))
    assert waits.seen == []
    with waits:
        bool(next(iter(run.meter._rows.values()))[0][1].sum() > 0)
    assert waits.seen != []  # so it would have been seen


def test_equal_blocks_are_compiled_one_by_one() -> None:
    net = RRDBNet(scale=4, num_feat=8, num_block=4, num_grow_ch=4)
    names = set(net.state_dict())
    compile_net(net, backend="aot_eager")
    assert {type(m).__name__ for m in net.modules() if m._compiled_call_impl} == {"RRDB"}
    assert set(net.state_dict()) == names


@pytest.mark.slow
def test_compiled_training_equals_plain(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "compile_net", partial(compile_net, backend="aot_eager"))
    ends = []
    for compiled in ("false", "true"):
        run = prepared(recipe(name=f"compiled_{compiled}"), f"train.compile={compiled}")
        for _ in range(2):
            run.train_step(iter([RawBatch([])]))
        nets: dict[str, nn.Module] = {name: player.raw for name, player in run.players.items()}
        assert all(any(m._compiled_call_impl for m in n.modules()) == (compiled == "true") for n in nets.values())
        ends.append(torch.cat([value.flatten() for net in nets.values() for value in net.state_dict().values()]))
    assert torch.allclose(*ends, atol=1e-4)


@pytest.mark.parametrize("signalled", [True, *slow([False])])
def test_a_failed_compilation_ends_no_run(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], signalled: bool
) -> None:
    """Nor does a signal meanwhile, which ends compiler processes of the group: the run saves and ends with its code."""

    def failing(graph: object, inputs: object) -> None:
        if signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("ptxas was killed")

    monkeypatch.setattr(builder, "compile_net", partial(compile_net, backend=failing))
    run = Builder(load(recipe(), ["train.compile=true", "train.total_steps=4", "log.every=1"])).trainer()
    with pytest.raises(Stopped) if signalled else nullcontext() as stopped:
        run.run()
    assert stopped is None or stopped.value.exit_code == 128 + signal.SIGTERM
    assert run.step == (1 if signalled else 4)
    lines = [line for line in capsys.readouterr().out.splitlines() if "compilation failed" in line]
    assert len(lines) == 2  # of generator and discriminator
    assert all("ptxas was killed" in line for line in lines)


@pytest.mark.parametrize(
    ("sets", "compiled"),
    [
        ((), True),
        (("train.total_steps=100",), False),
        (("train.checkpoint_activations=true",), False),
        (("train.compile=false",), False),
    ],
)
def test_long_runs_on_a_gpu_compile_the_generator(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sets: tuple[str, ...], compiled: bool
) -> None:
    monkeypatch.setattr(builder, "can_compile", lambda device: True)
    monkeypatch.setenv("SR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is restored
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    run = Builder(load(recipe(), ["generator.num_block=4", "train.total_steps=10000", *sets])).trainer()
    found = {name: any(m._compiled_call_impl for m in p.raw.modules()) for name, p in run.players.items()}
    assert found == {"generator": compiled, "discriminator": False}
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") == (str(tmp_path / "home" / "compiled") if compiled else None)


@pytest.mark.parametrize(
    "extra", [{"regularizers": [{"type": "r1"}]}, {"regularizers": [{"type": "feature_matching"}]}]
)
def test_a_critic_that_is_looked_into_is_not_compiled(recipe: Recipe, extra: dict[str, object]) -> None:
    losses = {"pixel": {"type": "l1"}, "gan": {"type": "vanilla", **extra}}
    run = Builder(load(recipe(losses=losses), ["train.compile=true"])).trainer()
    assert run.players["generator"].raw._compiled_call_impl is not None
    assert run.players["discriminator"].raw._compiled_call_impl is None


def test_compile_is_refused_where_weights_are_in_parts(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "read_launch", lambda: Launch("fsdp2"))
    with pytest.raises(UserError, match=r"train\.compile cannot look through .*remove it"):
        Builder(load(recipe(), ["train.compile=true"])).trainer()
