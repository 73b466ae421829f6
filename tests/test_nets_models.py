"""Opening generators, ours and others', and starting from them."""

import pytest
import spandrel
import torch
from spandrel.architectures.Compact import Compact

from sr.core.errors import UserError
from sr.nets.io.load import architecture, load_into, open_model
from sr.nets.io.state_dicts import save_pth, save_safetensors, to_old_esrgan
from sr.nets.rrdbnet import RRDBNet
from sr.nets.unet_sn import UNetDiscriminatorSN

SMALL = {"num_feat": 16, "num_block": 2}
X = torch.rand(1, 3, 9, 11)


def same_output(model, net):
    with torch.no_grad():
        return torch.allclose(model.net(X), net(X), atol=1e-6)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_ours_by_metadata(tmp_path, scale):
    kwargs = SMALL | {"scale": scale, "num_grow_ch": 8}
    net = RRDBNet(**kwargs)
    save_safetensors(tmp_path / "n.safetensors", net.state_dict(), architecture("rrdbnet", kwargs))
    model = open_model(tmp_path / "n.safetensors", expect_scale=scale)
    assert (model.scale, model.multiple, model.channels) == (scale, net.multiple, 3)
    assert not model.net.training
    assert same_output(model, net)


@pytest.mark.parametrize(("scale", "unshuffle"), [(1, True), (1, False), (2, True), (2, False), (4, True), (8, True)])
def test_ours_opens_in_spandrel(tmp_path, scale, unshuffle):
    kwargs = SMALL | {"scale": scale, "unshuffle": unshuffle}
    net = RRDBNet(**kwargs)
    save_safetensors(tmp_path / "n.safetensors", net.state_dict(), architecture("rrdbnet", kwargs))
    theirs = spandrel.ModelLoader().load_from_file(tmp_path / "n.safetensors")
    assert (theirs.architecture.id, theirs.scale) == ("ESRGAN", scale)
    with torch.no_grad():
        assert torch.allclose(theirs.model(X), net(X), atol=1e-6)


@pytest.mark.parametrize("rename", [dict, to_old_esrgan])
@pytest.mark.parametrize("kwargs", [{"scale": 1}, {"scale": 2}, {"scale": 2, "unshuffle": False}, {"scale": 4}])
def test_published_layouts_without_metadata(tmp_path, rename, kwargs):
    net = RRDBNet(**SMALL, num_grow_ch=8, **kwargs)
    save_pth(tmp_path / "n.pth", rename(net.state_dict()))
    model = open_model(tmp_path / "n.pth")
    assert (model.scale, model.multiple) == (net.scale, net.multiple)
    assert same_output(model, net)


def test_x3_needs_to_be_expected(tmp_path):
    net = RRDBNet(scale=3, **SMALL)
    save_pth(tmp_path / "n.pth", net.state_dict())
    assert same_output(open_model(tmp_path / "n.pth", expect_scale=3), net)


def test_other_architectures_through_spandrel(tmp_path):
    net = Compact(num_feat=8, num_conv=2, upscale=4)
    save_pth(tmp_path / "n.pth", net.state_dict(), key="params")
    model = open_model(tmp_path / "n.pth")
    assert model.scale == 4
    with torch.no_grad():
        assert torch.allclose(model.net(X), net(X).clamp(0, 1), atol=1e-6)


def test_words_of_other_programs_in_the_metadata_do_no_harm(tmp_path):
    net = RRDBNet(scale=4, **SMALL)
    save_safetensors(tmp_path / "n.safetensors", net.state_dict(), {"architecture": "ESRGAN"})
    assert same_output(open_model(tmp_path / "n.safetensors"), net)


def test_what_is_no_model_is_one_sentence(tmp_path):
    net = RRDBNet(scale=4, **SMALL)
    state = net.state_dict()
    save_pth(tmp_path / "odd.pth", {"a.weight": torch.zeros(3)})
    save_pth(tmp_path / "critic.pth", UNetDiscriminatorSN(num_feat=4).state_dict())
    other = {"scale": 4, "num_feat": 32}
    save_safetensors(tmp_path / "misfit.safetensors", state, architecture("rrdbnet", other))
    huge = {"scale": 4, "num_feat": 10**9}
    save_safetensors(tmp_path / "huge.safetensors", state, architecture("rrdbnet", huge))
    save_safetensors(tmp_path / "code.safetensors", state, architecture("os.system", {}))
    save_safetensors(tmp_path / "no_such.safetensors", state, architecture("basicsr.os", {}))
    save_safetensors(tmp_path / "broken.safetensors", state, {"architecture": "{"})
    for file in tmp_path.iterdir():
        with pytest.raises(UserError, match=file.name) as error:
            open_model(file)
        assert "\n" not in str(error.value)
    save_pth(tmp_path / "x4.pth", state)
    with pytest.raises(UserError, match="upscales by 4, not 2"):
        open_model(tmp_path / "x4.pth", expect_scale=2)


def test_fine_tuning_from_old_names(tmp_path):
    published, net = RRDBNet(scale=4, **SMALL), RRDBNet(scale=4, **SMALL)
    save_pth(tmp_path / "n.pth", to_old_esrgan(published.state_dict()))
    assert load_into(net, tmp_path / "n.pth") == []
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), published.parameters(), strict=True))


def test_x2_from_x4_takes_what_fits(tmp_path):
    x4, x2 = RRDBNet(scale=4, **SMALL), RRDBNet(scale=2, **SMALL)
    save_pth(tmp_path / "x4.pth", x4.state_dict())
    with pytest.raises(UserError, match=r"'conv_first.weight' is \[16, 3, 3, 3\], not \[16, 12, 3, 3\]"):
        load_into(x2, tmp_path / "x4.pth")
    assert len(load_into(x2, tmp_path / "x4.pth", strict=False)) == 1
    assert torch.equal(x2.conv_last.weight, x4.conv_last.weight)


def test_nothing_fits(tmp_path):
    save_pth(tmp_path / "odd.pth", {"a.weight": torch.zeros(3)})
    with pytest.raises(UserError, match="does not fit RRDBNet"):
        load_into(RRDBNet(scale=4, **SMALL), tmp_path / "odd.pth", strict=False)
