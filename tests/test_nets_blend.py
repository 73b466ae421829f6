"""Network interpolation of models of the same architecture."""

import pytest
import torch

from sr.core.errors import UserError
from sr.nets.compact import Compact
from sr.nets.io.interpolate import blend
from sr.nets.io.load import architecture
from sr.nets.io.state_dicts import save_pth, save_safetensors, to_old_esrgan
from sr.nets.rrdbnet import RRDBNet

KWARGS = {"scale": 4, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}


@pytest.fixture
def files(tmp_path):
    """Ours, and one in the layout of the first ESRGAN."""
    nets = []
    for seed, name in enumerate(("a.safetensors", "b.pth")):
        torch.manual_seed(seed)
        nets.append(RRDBNet(**KWARGS))
        state = nets[-1].state_dict()
        if seed:
            torch.save(to_old_esrgan(state), tmp_path / name)
        else:
            save_safetensors(tmp_path / name, state, architecture("rrdbnet", KWARGS))
    return tmp_path, [net.state_dict() for net in nets]


@pytest.mark.parametrize(("shares", "weight"), [((":0.7", ":0.3"), 0.7), ((":7", ":3"), 0.7), (("", ""), 0.5)])
def test_weights_in_between(files, shares, weight):
    folder, (a, b) = files
    model = blend([f"{folder}/a.safetensors{shares[0]}", f"{folder}/b.pth{shares[1]}"])
    for key, value in model.net.state_dict().items():
        torch.testing.assert_close(value, weight * a[key] + (1 - weight) * b[key], atol=1e-6, rtol=1e-6)
    assert f"{weight:.0%} a.safetensors + {1 - weight:.0%} b.pth" in model.name


def test_three(files):
    folder, (a, b) = files
    model = blend([f"{folder}/a.safetensors:1", f"{folder}/b.pth:1", f"{folder}/a.safetensors:2"])
    torch.testing.assert_close(
        model.net.state_dict()["conv_first.weight"], (3 * a["conv_first.weight"] + b["conv_first.weight"]) / 4
    )


def test_what_cannot_be_blended(files):
    folder, _ = files
    save_pth(folder / "wide.pth", RRDBNet(**{**KWARGS, "num_grow_ch": 8}).state_dict())
    save_pth(folder / "deep.pth", RRDBNet(**{**KWARGS, "num_block": 2}).state_dict())
    save_pth(folder / "x2.pth", RRDBNet(**{**KWARGS, "scale": 2}).state_dict())
    kwargs = {"scale": 4, "num_feat": 8, "num_conv": 2}
    save_safetensors(folder / "c.safetensors", Compact(**kwargs).state_dict(), architecture("compact", kwargs))
    a = f"{folder}/a.safetensors"
    for parts, message in [
        ([a], "two or more"),
        ([a, f"{folder}/wide.pth"], r"'body.0.rdb1.conv1.weight' is \[4, 8, 3, 3\] in the first and \[8, 8, 3, 3\]"),
        ([a, f"{folder}/deep.pth"], r"'body.1.rdb1.conv1.weight' is missing in the first"),
        ([a, f"{folder}/c.safetensors"], r"'conv_first.weight' is \[8, 3, 3, 3\] in the first and missing"),
        ([a, f"{folder}/x2.pth"], "blend models of one scale"),
        ([f"{a}:0.7", f"{folder}/b.pth:-1"], "the share is -1"),
        ([a, f"{folder}/b.pth:nan"], "the share is nan"),
        ([a, f"{folder}/none.pth:0.5"], "no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            blend(parts)
