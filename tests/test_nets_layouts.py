"""Files: what may be read, how names map, and that writing is whole or nothing."""

import os
import pickle

import pytest
import torch

from sr.core.errors import UserError
from sr.nets.io.state_dicts import load_weights, save_pth, save_safetensors, to_new_esrgan, to_old_esrgan
from sr.nets.rrdbnet import RRDBNet


@pytest.fixture
def state():
    return RRDBNet(scale=4, num_feat=8, num_block=2, num_grow_ch=4).state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_safetensors_round_trip(tmp_path, state):
    save_safetensors(tmp_path / "net.safetensors", state, {"step": "7"})
    found, metadata = load_weights(tmp_path / "net.safetensors")
    assert same(found, state)
    assert metadata == {"step": "7"}
    assert os.listdir(tmp_path) == ["net.safetensors"]


def test_channels_last_weights_are_saved_plain(tmp_path):
    net = RRDBNet(scale=4, num_feat=8, num_block=1, num_grow_ch=4).to(memory_format=torch.channels_last)
    save_safetensors(tmp_path / "net.safetensors", net.state_dict(), {})
    assert same(load_weights(tmp_path / "net.safetensors")[0], net.state_dict())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, state, monkeypatch):
    path = tmp_path / "net.pth"
    save_pth(path, state)

    def full_disk(content, temporary):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_pth(path, state)
    assert os.listdir(tmp_path) == ["net.pth"]
    assert same(load_weights(path)[0], state)


def test_averaged_weights_win_and_wrappers_fall_off(tmp_path, state):
    other = {k: v + 1 for k, v in state.items()}
    layouts = {
        "both": {"params": other, "params_ema": state},
        "params": {"params": state},
        "redux": {"params-ema": state, "iter": 5},
        "lightning": {"state_dict": state, "epoch": 3},
        "bare": state,
        "ddp": {"module." + k: v for k, v in state.items()},
    }
    for name, content in layouts.items():
        torch.save(content, tmp_path / f"{name}.pth")
        assert same(load_weights(tmp_path / f"{name}.pth")[0], state), name


def test_unreadable_files_are_user_errors(tmp_path, state):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    save_safetensors(tmp_path / "whole.safetensors", state, {})
    save_pth(tmp_path / "whole.pth", state)
    for name in ("whole.safetensors", "whole.pth"):
        half = (tmp_path / name).read_bytes()
        (tmp_path / f"half_{name}").write_bytes(half[: len(half) // 2])
    (tmp_path / "code.pth").write_bytes(pickle.dumps(Code(), protocol=2))
    torch.save({"params": Code()}, tmp_path / "code_inside.pth")
    torch.save({"epoch": 3, "optimizers": []}, tmp_path / "training.state")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "empty.pth").touch()
    names = ("half_whole.safetensors", "half_whole.pth", "code.pth", "code_inside.pth", "training.state", "list.pth")
    for name in (*names, "empty.pth", "absent.pth"):
        with pytest.raises(UserError, match=name) as error:
            load_weights(tmp_path / name)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("unshuffle", [True, False])
def test_old_names_and_back(scale, unshuffle):
    state = RRDBNet(scale=scale, num_feat=8, num_block=2, num_grow_ch=4, unshuffle=unshuffle).state_dict()
    old = to_old_esrgan(state)
    assert {"model.0.weight", "model.1.sub.1.RDB3.conv5.0.bias", "model.1.sub.2.weight"} < old.keys()
    assert same(to_new_esrgan(old), state)
    assert same(to_new_esrgan(state), state)


def test_published_x4_numbers(state):
    tail = {key.rsplit(".", 1)[0] for key in to_old_esrgan(state) if not key.startswith("model.1.")}
    assert tail == {"model.0", "model.3", "model.6", "model.8", "model.10"}


def test_realsr_names(state):
    names = {"rdb": "RDB", "body": "RRDB_trunk", "conv_body": "trunk_conv", "conv_up": "upconv", "conv_hr": "HRconv"}
    realsr = {}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        first = first.replace("conv_up", "upconv") if first.startswith("conv_up") else names.get(first, first)
        realsr[f"{first}.{rest.replace('rdb', 'RDB')}"] = value
    assert "RRDB_trunk.0.RDB1.conv1.weight" in realsr
    assert same(to_new_esrgan(realsr), state)
