"""Two processes on two null GPUs: every backend trains over the null NCCL, and too many processes are refused."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import null_gpu
from tests.helpers.program import ROOT
from tests.helpers.training import _free_port

REASON = null_gpu.missing()
pytestmark = [pytest.mark.slow, pytest.mark.distributed, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
Recipe = Callable[..., Path]


def ranks(*words: object, backend: str = "ddp", devices: int = 2) -> list[tuple[int, str]]:
    """Run `sr` in two processes, as a launcher does. Returns their exit codes and outputs."""
    shown = subprocess.run(["bash", "-c", f". launch/backend.sh {backend}; env -0"], cwd=ROOT, capture_output=True)
    env = dict(each.split("=", 1) for each in shown.stdout.decode().split("\0") if each)
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **null_gpu.environment(devices=devices)}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    line = [sys.executable, "-m", "tests.null_gpu", *map(str, words)]
    started = [
        subprocess.Popen(
            line,
            env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    return [(process.wait(), said) for process, said in [(p, p.communicate(timeout=280)[0]) for p in started]]


@pytest.mark.parametrize("backend", ["ddp", "fsdp2", "zero1", "zero2", "zero3"])
def test_every_backend_trains_and_saves(recipe: Recipe, tmp_path: Path, backend: str) -> None:
    file = recipe(save={"every": 2})
    ended = ranks("train", file, backend=backend)
    assert [code for code, _ in ended] == [0, 0], "\n".join(said[-2000:] for _, said in ended)
    assert (tmp_path / "runs" / "tiny" / "checkpoints" / "step_00000004").is_dir()


def test_more_processes_than_gpus_are_refused(recipe: Recipe) -> None:
    for code, said in ranks("train", recipe(), devices=1):
        assert code == 2
        assert "2 processes share 1 GPU(s) of this machine; set --num_processes 1" in said
