"""Which device inference runs on; only the choice is tested, not the devices."""

from types import SimpleNamespace

import pytest
import torch

from sr.core.errors import UserError
from sr.distributed.gpus import check_gpus
from sr.inference.device import pick_device


@pytest.mark.parametrize(
    ("there", "rank", "picked"),
    [
        ({"cuda", "xpu", "mps"}, None, "cuda"),
        ({"cuda"}, "1", "cuda:1"),
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
    if processes == 4:
        with pytest.raises(UserError, match=r"4 processes share 2 GPU\(s\) of this machine; set --num_processes 2"):
            check_gpus("upscale ...")
        return
    check_gpus("upscale ...")
    said = capsys.readouterr().err
    assert ("1 of 2 GPUs is used" in said) == (processes == 1)
    assert ("--num_processes 2 -m sr upscale ..." in said) == (processes == 1)


def test_a_process_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="process 2 of this machine has no GPU, it has 2; set --num_processes 2"):
        pick_device()
