"""Generators other than RRDBNet: published layouts, equality with basicsr, other programs open them."""

import copy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import spandrel
import torch
from torch import nn

from sr.config import registry
from sr.core.errors import UserError
from sr.nets.io.basicsr import basicsr
from sr.nets.io.load import architecture, open_model
from sr.nets.io.state_dicts import save_pth, save_safetensors
from sr.train.builder import TABLES, load
from sr.train.run import train

needs_basicsr = pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr, the reference, is an extra")

SWINIR = {
    "img_size": 8,
    "window_size": 4,
    "depths": [2],
    "embed_dim": 12,
    "num_heads": [2],
    "upsampler": "pixelshuffle",
}
NETS: dict[
    str, tuple[str, str, dict[str, Any], dict[str, Any]]
] = {  # type -> basicsr's, parameters, those it calls else
    "srresnet": ("srresnet_arch", "MSRResNet", {"num_feat": 8, "num_block": 2}, {}),
    "edsr": ("edsr_arch", "EDSR", {"num_feat": 8, "num_block": 2, "res_scale": 0.1}, {"num_in_ch": 3, "num_out_ch": 3}),
    "rcan": (
        "rcan_arch",
        "RCAN",
        {"num_feat": 8, "num_group": 2, "num_block": 2, "squeeze_factor": 4},
        {"num_in_ch": 3, "num_out_ch": 3},
    ),
    "compact": ("srvgg_arch", "SRVGGNetCompact", {"num_feat": 8, "num_conv": 2}, {}),
}
SCALES = [(kind, scale) for kind in NETS for scale in (1, 2, 3, 4, 8)]


def make(kind: str, scale: int, **kwargs: Any) -> Any:
    return registry.make({"type": kind} | kwargs, "generators", TABLES, scale=scale).eval()


def problems(kind: str, **kwargs: Any) -> str:
    found = registry.check({"type": kind} | kwargs, "generators", TABLES)
    return " ".join(problem.message for problem in found)


def run(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net(x)


@needs_basicsr
@pytest.mark.parametrize(("kind", "scale"), [(k, s) for k, s in SCALES if k != "srresnet" or s in (2, 3, 4)])
def test_equals_basicsr_with_its_keys(kind: str, scale: int) -> None:
    module, name, kwargs, others = NETS[kind]
    reference = getattr(basicsr(f"archs.{module}"), name)(upscale=scale, **kwargs, **others).eval()
    ours = make(kind, scale, **kwargs)
    ours.load_state_dict(reference.state_dict())
    x = torch.rand(2, 3, 9, 11)
    torch.testing.assert_close(run(ours, x), run(reference, x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("act_type", ["prelu", "relu", "leakyrelu"])
@needs_basicsr
def test_compact_activations(act_type: str) -> None:
    kwargs = NETS["compact"][2] | {"act_type": act_type}
    reference = basicsr("archs.srvgg_arch").SRVGGNetCompact(upscale=4, **kwargs)
    ours = make("compact", 4, **kwargs)
    ours.load_state_dict(reference.state_dict())
    x = torch.rand(1, 3, 8, 8) - 0.5
    torch.testing.assert_close(run(ours, x), run(reference, x))


@needs_basicsr
@pytest.mark.parametrize("kind", NETS)
def test_starts_as_basicsr_does(kind: str) -> None:
    """The same spread of initial weights, layer by layer."""
    module, name, kwargs, others = NETS[kind]
    kwargs = kwargs | {"num_feat": 32}
    torch.manual_seed(0)
    reference = getattr(basicsr(f"archs.{module}"), name)(upscale=4, **kwargs, **others).state_dict()
    for key, value in make(kind, 4, **kwargs).state_dict().items():
        if value.numel() > 500:
            assert value.std().item() == pytest.approx(reference[key].std().item(), rel=0.15), key


@pytest.mark.parametrize(("kind", "scale"), SCALES)
def test_saved_opens_by_its_metadata_and_any_size_works(kind: str, scale: int, tmp_path: Path) -> None:
    kwargs = NETS[kind][2]
    net = make(kind, scale, **kwargs)
    save_safetensors(tmp_path / "n.safetensors", net.state_dict(), architecture(kind, kwargs | {"scale": scale}))
    model = open_model(tmp_path / "n.safetensors", expect_scale=scale)
    x = torch.rand(1, 3, 5, 7)
    assert run(model.net, x).shape == (1, 3, 5 * scale, 7 * scale)
    assert torch.equal(run(model.net, x), run(net, x))


def test_compact_opens_in_spandrel(tmp_path: Path) -> None:
    net = make("compact", 4, num_feat=8, num_conv=3)
    save_safetensors(tmp_path / "n.safetensors", net.state_dict(), {})
    theirs = spandrel.ModelLoader().load_from_file(tmp_path / "n.safetensors")
    assert (theirs.architecture.id, theirs.scale) == ("Compact", 4)
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(run(theirs.model, x), run(net, x))


@pytest.mark.parametrize(
    ("kind", "kwargs", "millions"),
    [
        ("srresnet", {}, 1.518),
        ("edsr", {"num_feat": 256, "num_block": 32}, 43.090),
        ("rcan", {"num_block": 20}, 15.592),
        ("compact", {"num_conv": 32}, 1.213),
    ],
)
def test_published_sizes(kind: str, kwargs: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in make(kind, 4, **kwargs).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=5e-4)


# ---- basicsr.* -------------------------------------------------------------------------------------------------------


@needs_basicsr
def test_swinir_of_basicsr_is_itself_and_its_files_open_everywhere(tmp_path: Path) -> None:
    net = make("basicsr.SwinIR", 2, **SWINIR)
    assert isinstance(net, basicsr("archs.swinir_arch").SwinIR)
    save_safetensors(
        tmp_path / "n.safetensors", net.state_dict(), architecture("basicsr.SwinIR", SWINIR | {"scale": 2})
    )
    x = torch.rand(1, 3, 9, 11)
    model = open_model(tmp_path / "n.safetensors")
    assert (model.scale, model.multiple) == (2, 4)
    assert torch.equal(run(model.net, x), run(net, x))
    theirs = spandrel.ModelLoader().load_from_file(tmp_path / "n.safetensors")
    assert (theirs.architecture.id, theirs.scale) == ("SwinIR", 2)


@needs_basicsr
def test_parameters_of_basicsr_are_checked_by_its_signature() -> None:
    assert "Did you mean 'SwinIR'?" in problems("basicsr.SwinIr")
    assert "Did you mean 'window_size'?" in problems("basicsr.SwinIR", windowsize=8)
    assert "needs 'num_in_ch'" in problems("basicsr.EDSR", num_out_ch=3)
    assert not problems("basicsr.SwinIR", upscale=4, **SWINIR)


@needs_basicsr
@pytest.mark.parametrize(
    ("kind", "kwargs", "word"),
    [
        ("basicsr.SwinIR", SWINIR | {"upscale": 2}, "upscale 2 is not the scale of these options, 4"),
        ("basicsr.SwinIR", SWINIR | {"embed_dim": "wide"}, "cannot be built"),
        ("basicsr.TOFlow", {}, "does not upscale"),
    ],
)
def test_what_basicsr_cannot_build_is_one_sentence(kind: str, kwargs: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word) as error:
        make(kind, 4, **kwargs)
    assert "\n" not in str(error.value)


@needs_basicsr
def test_basicsr_is_counted_without_memory() -> None:
    with torch.device("meta"):
        net = make("basicsr.SwinIR", 4, **SWINIR)
    assert {p.device.type for p in net.parameters()} == {"meta"}


# ---- spandrel --------------------------------------------------------------------------------------------------------


@pytest.fixture
def swinir(tmp_path: Path) -> Path:
    if find_spec("basicsr") is None:
        pytest.skip("basicsr, which makes the file, is an extra")
    save_pth(tmp_path / "swinir.pth", make("basicsr.SwinIR", 2, **SWINIR).state_dict())
    return tmp_path / "swinir.pth"


def test_a_file_is_trained_on_and_opens_again(swinir: Path, tmp_path: Path) -> None:
    net = make("spandrel", 2, file=str(swinir)).train()
    before = run(net.eval(), x := torch.rand(1, 3, 9, 11))
    assert before.shape == (1, 3, 18, 22)
    net.train()(x).mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    save_safetensors(tmp_path / "n.safetensors", net.state_dict(), architecture("spandrel", {"file": "gone.pth"}))
    torch.testing.assert_close(run(open_model(tmp_path / "n.safetensors").net, x), before.clamp(0, 1))


def test_the_ema_has_separate_weights(swinir: Path) -> None:
    net = make("spandrel", 2, file=str(swinir))
    average, x = copy.deepcopy(net), torch.rand(1, 3, 8, 8)
    before = run(average, x)
    with torch.no_grad():
        net.conv_first.weight.zero_()
    assert torch.equal(run(average, x), before)
    assert not torch.equal(run(net, x), before)


def test_sizes_are_padded_as_the_network_requires(tmp_path: Path) -> None:
    net = spandrel.ModelLoader().load_from_state_dict(make("rrdbnet", 2, num_feat=8, num_block=1).state_dict())
    assert net.size_requirements.multiple_of == 4
    save_pth(tmp_path / "x2.pth", net.model.state_dict())
    ours, x = make("spandrel", 2, file=str(tmp_path / "x2.pth")), torch.rand(1, 3, 9, 11)
    torch.testing.assert_close(run(ours, x).clamp(0, 1), net(x))


def test_wrong_files_are_one_sentence(tmp_path: Path) -> None:
    save_pth(tmp_path / "odd.pth", {"a.weight": torch.zeros(3)})
    save_pth(tmp_path / "x2.pth", make("compact", 2, num_feat=8, num_conv=2).state_dict())
    for name, word in (("odd.pth", "no network"), ("x2.pth", "set scale: 2"), ("absent.pth", "no such file")):
        with pytest.raises(UserError, match=word) as error:
            make("spandrel", 4, file=str(tmp_path / name))
        assert name in str(error.value)
        assert "\n" not in str(error.value)


# ---- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*NETS, "basicsr.SwinIR", "spandrel", "spandrel.SPAN"])
def test_trains_a_step_and_its_file_opens(kind: str, recipe: Callable[..., Path], tmp_path: Path) -> None:
    if kind == "basicsr.SwinIR" and find_spec("basicsr") is None:
        pytest.skip("basicsr is an extra")
    save_pth(tmp_path / "x2.pth", make("compact", 2, num_feat=8, num_conv=1).state_dict())
    kwargs = {name: net[2] for name, net in NETS.items()}
    kwargs |= {"basicsr.SwinIR": SWINIR, "spandrel": {"file": str(tmp_path / "x2.pth")}}
    kwargs |= {"spandrel.SPAN": {"feature_channels": 8}}
    options = load(recipe(generator={"type": kind} | kwargs[kind], train__total_steps=1))
    train(options)
    model = open_model(options.folder / "models" / "net_g_1.safetensors", expect_scale=2)
    assert run(model.net, torch.rand(1, 3, 9, 11)).shape == (1, 3, 18, 22)
