"""A step on fake CUDA tensors mixes no devices and waits for nothing; the check can fail (see tests/fake_cuda.py)."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.program import ROOT, write_photos

pytestmark = pytest.mark.slow
SMALL = ["data.gt_size=32", "data.degrade_size=48", "generator.num_block=1", "generator.num_feat=16"]


def check(tmp_path: Path, *more: str) -> tuple[int, str]:
    sets = [
        *SMALL,
        "losses.perceptual.weights=random",
        f"data.source={{type: folder, gt: {write_photos(tmp_path / 'p')}}}",
    ]
    words = [word for each in sets for word in ("--set", each)]
    line = [sys.executable, "-W", "ignore", "-m", "tests.fake_cuda", "options/realesrgan_x4.yml", *words, *more]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout + done.stderr


def test_a_step_mixes_no_devices_and_waits_for_nothing(tmp_path: Path) -> None:
    code, said = check(tmp_path)
    assert code == 0, said[-2000:]
    assert said.splitlines()[-1] == "no syncs"


def test_the_check_finds_a_sync_with_its_line(tmp_path: Path) -> None:
    code, said = check(tmp_path, "--break", "sync")
    assert code == 1
    assert "x _local_scalar_dense in tests/fake_cuda.py:" in said


def test_the_check_finds_mixed_devices(tmp_path: Path) -> None:
    code, said = check(tmp_path, "--break", "device")
    assert code == 1
    assert "found at least two devices, cuda:0 and cpu" in said
