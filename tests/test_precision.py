"""Half precision where the output stays close to fp32, and fp32 elsewhere."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sr.inference import precision
from sr.inference.precision import WITHIN, Choice, choose, exact, halved, mixed
from sr.inference.predictor import Predictor
from sr.inference.receptive_field import probe
from sr.nets.cpu import winograd
from sr.nets.device import fast_half_types, multiplications
from sr.nets.edsr import EDSR
from sr.nets.io.load import Model
from sr.nets.rcan import RCAN
from sr.nets.rrdbnet import RRDBNet
from sr.nets.srresnet import SRResNet
from sr.train.model_optimizer import choose_precision
from tests.helpers.tiers import slow

CPU = torch.device("cpu")
LOOKS = [probe(48, 3)]


@pytest.fixture
def fast_bf16(monkeypatch):
    """A processor with instructions for bf16, or one that thinks so."""
    monkeypatch.setattr(precision, "fast_half_types", lambda device: [torch.bfloat16])


def rrdb() -> RRDBNet:
    """Scale the output to that of a trained network, with contributing dense blocks."""
    torch.manual_seed(0)
    net = RRDBNet(scale=2, num_feat=32, num_block=3, num_grow_ch=16).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("body") and parameter.ndim == 4:
                parameter.mul_(5)
        made = net(LOOKS[0])
        net.conv_last.weight.mul_(0.23 / made.std())
        net.conv_last.bias.add_(0.5)
    return net


@torch.no_grad()
def picked(net: nn.Module, asked: Any) -> Choice:
    return choose(net, asked, device=CPU, looks=LOOKS)


def off(run: Any, net: nn.Module) -> float:
    image = probe(64, 3)
    with torch.no_grad():
        return (run(image).clamp(0, 1) - net(image).clamp(0, 1)).abs().max().item() * 255


def test_mixed_is_an_eighth_of_a_step_from_fp32_where_plain_bf16_is_off_by_steps():
    net = rrdb()
    way = mixed(net, "bf16")
    assert way is not None
    assert off(way.run, net) < 0.125
    assert off(halved(net, "bf16").run, net) > 0.5  # rounding is not the same on every processor
    body = [module for module in net.body.modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.weight.dtype == torch.float32 for conv in body), "the net itself is as it was"
    silent = rrdb()
    for conv in [module for module in silent.body.modules() if isinstance(module, nn.Conv2d)]:
        nn.init.zeros_(conv.weight)
    assert off(silent, net) > 2, "the blocks are of no account, and the test could not fail"


@pytest.mark.parametrize(
    "net", [EDSR(scale=2, num_block=2), *slow([RCAN(scale=2, num_group=1, num_block=2), SRResNet(scale=2)])]
)
def test_mixed_for_other_nets_of_residual_blocks(net):
    way = mixed(net.eval(), "bf16")
    assert way is not None
    made = way.run(LOOKS[0])
    assert made.dtype == torch.float32
    assert off(way.run, net) < off(halved(net, "bf16").run, net)


def test_no_blocks_no_mixture():
    net = nn.Conv2d(3, 3, 1)
    assert mixed(net, "bf16") is None
    choice = picked(net, "mixed")
    assert (choice.way.name, len(choice.refused)) == ("fp32", 1)
    assert picked(rrdb(), "mixed").way.name == "bf16 blocks in fp32"


def test_auto_takes_what_is_fast_and_close(fast_bf16):
    choice = picked(rrdb(), "auto")
    assert choice.way.name == "bf16 blocks in fp32"
    assert 0 < choice.deviation <= WITHIN
    assert not choice.refused


def test_auto_is_fp32_where_half_precision_is_no_faster(monkeypatch):
    monkeypatch.setattr(precision, "fast_half_types", lambda device: [])
    net = rrdb()
    choice = picked(net, "auto")
    assert (choice.way.name, choice.refused) == ("fp32", [])
    assert off(choice.way.run, net) < 0.01


class Odd(nn.Module):
    """A net that half precision does something to: what `fault` makes of its output there."""

    def __init__(self, fault: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.conv.weight)
        self.fault = fault

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv(x)
        return made if made.dtype == torch.float32 else self.fault(made)


def missing(x: Tensor) -> Tensor:
    raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'")


FAULTS = {
    "overflows": lambda x: x * 1e30 * 1e30,
    "differs from fp32 by up to 255.0/255": torch.zeros_like,  # black
    "does not run here": missing,
}


@pytest.mark.parametrize("reason", FAULTS)
@pytest.mark.parametrize("asked", ["bf16", "fp16"])
def test_half_precision_that_breaks_images_is_given_up(reason, asked):
    said: list[str] = []
    run = Predictor(Model(Odd(FAULTS[reason]), 1, 1, "odd"), precision=asked, say=said.append)
    image = probe(40, 3)[0]
    for _ in range(2):
        torch.testing.assert_close(run([image])[0], image, atol=1e-6, rtol=0)
    assert len(said) == 1
    assert f"{asked} {reason}" in said[0]
    assert said[0].endswith("fp32")


def test_one_that_overflows_later_is_given_up_then():
    """At what the first image has not: everything above 0.99."""
    said: list[str] = []
    net = Odd(lambda x: torch.where(x > 1.5, torch.inf, x))
    run = Predictor(Model(net, 1, 1, "odd"), precision="bf16", say=said.append)
    dark, bright = probe(40, 3)[0], torch.full((3, 40, 40), 2.0)
    run([dark])
    assert torch.equal(run([bright])[0], torch.ones(3, 40, 40))
    assert said[-1] == "bf16 overflowed; using fp32 from now on"
    run([bright])
    assert len(said) == 2


def test_requested_settings_are_reported_with_their_cost():
    said: list[str] = []
    run = Predictor(Model(rrdb(), 2, 1, "rrdb"), precision="bf16", say=said.append)
    run([probe(40, 3)[0]])
    assert len(said) == 1
    assert said[0].startswith("bf16 differs from fp32 by up to ")


def test_fp32_is_fp32():
    net = rrdb()
    assert off(exact(net, CPU).run, net) < 0.01
    assert picked(net, "fp32").way.name == "fp32"


@pytest.mark.parametrize(
    ("capability", "types", "training"),
    [
        ((6, 1), [], "fp32"),
        ((7, 5), [torch.float16], "fp16"),
        ((8, 0), [torch.float16, torch.bfloat16], "bf16"),
        ((12, 0), [torch.float16, torch.bfloat16], "bf16"),
    ],
)
def test_half_precision_on_a_gpu_is_decided_by_its_capability(capability, types, training, monkeypatch):
    """And not by timing one layer, whose launch costs more than the layer."""
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fast_half_types(cuda) == types
    assert choose_precision("auto", cuda) == training
    ways = [make() for make in precision._makers(rrdb(), "auto", cuda)]
    assert len(ways) == {0: 1, 1: 3, 2: 4}[len(types)]


def test_other_devices():
    assert fast_half_types(torch.device("mps")) == [torch.float16]
    assert fast_half_types(torch.device("meta")) == []
    assert set(fast_half_types(CPU)) <= {torch.bfloat16}


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9")
def test_tf32_is_switched_where_the_new_settings_were_used(monkeypatch):
    """There `torch.backends.cudnn.allow_tf32` raises RuntimeError when it is read."""
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision
    try:
        conv.fp32_precision = "ieee"
        with pytest.raises(RuntimeError):
            print(torch.backends.cudnn.allow_tf32)
        with multiplications(torch.device("cuda"), tf32=True):
            assert (conv.fp32_precision, matmul.fp32_precision) == ("tf32", "tf32")
        assert (conv.fp32_precision, matmul.fp32_precision) == ("ieee", before[1])
    finally:
        conv.fp32_precision, matmul.fp32_precision = before


@pytest.mark.parametrize(
    ("amx", "bf16", "built", "chosen"),
    [
        (True, True, True, "bf16"),
        (False, True, True, "fp32"),
        (False, True, False, "bf16"),
        (False, False, True, "fp32"),
    ],
)
def test_training_takes_bf16_on_a_cpu_where_it_is_faster(amx, bf16, built, chosen, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16, raising=False)
    monkeypatch.setattr(winograd, "available", lambda: built)
    assert choose_precision("auto", CPU) == chosen
