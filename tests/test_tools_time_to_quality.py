"""tools/benchmarks/time_to_quality.py: both trainers start from the same weights, learn, and are measured at the same
times."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from sr.data.make_shards import make_shards
from tests.helpers.program import ROOT

pytestmark = pytest.mark.tools


@pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr, the reference, is an extra")
def test_both_are_trained_alternately_and_measured(recipe, photos: Path, tmp_path: Path) -> None:
    make_shards(sorted(photos.iterdir()), tmp_path / "shards", size=48, step=48, progress=False)
    file = recipe(
        task="psnr",
        discriminator=None,
        optimizer__discriminator=None,
        losses={"pixel": {"type": "l1"}},
        degrade=[{"type": "downscale"}],
        data__source={"type": "shards", "path": str(tmp_path / "shards")},
        validation={"sets": {"photos": {"hr": str(photos)}}},
    )
    plot = tmp_path / "curves.png"
    command = [
        sys.executable,
        ROOT / "tools" / "benchmarks" / "time_to_quality.py",
        file,
        "--minutes",
        "0.02",
        "0.04",
        "--plot",
        plot,
    ]
    made = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    assert made.returncode == 0, made.stderr[-2000:]
    told = [line for line in made.stdout.splitlines() if " dB, network " in line]
    assert [line.split(":")[0] for line in told] == ["ours", "BasicSR"] * 2
    assert plot.stat().st_size > 0
