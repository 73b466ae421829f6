"""Which device inference runs on; only the choice is tested, not the devices."""

from types import SimpleNamespace

import pytest
import torch

from sr.core.errors import UserError
from sr.distributed.backends import launch_config
from sr.inference.device import pick_device


@pytest.mark.parametrize(
    ("there", "rank", "picked"),
    [
        ({"cuda", "xpu", "mps"}, None, "cuda"),
        ({"cuda"}, "5", "cuda:1"),
        ({"xpu"}, None, "xpu"),
        ({"mps"}, "0", "mps"),
        (set(), None, "cpu"),
    ],
)
def test_the_best_device(monkeypatch: pytest.MonkeyPatch, there: set[str], rank: str | None, picked: str) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for kind in ("xpu", "mps"):
        monkeypatch.setattr(torch, kind, SimpleNamespace(is_available=lambda kind=kind: kind in there))
    assert pick_device() == torch.device(picked)


def test_a_device_by_name() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    for name in ("cuda:99", "nonsense"):
        with pytest.raises(UserError, match=f"--device {name}: this machine has no such device; leave it out"):
            pick_device(name)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_and_gpus(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], processes: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    if processes == 4:
        with pytest.raises(UserError, match=r"4 processes share 2 GPU\(s\) of this machine; set --num_processes 2"):
            launch_config._check_gpus()
        return
    launch_config._check_gpus()
    assert ("1 of 2 GPUs is used" in capsys.readouterr().err) == (processes == 1)
