"""Two processes on a CPU, started as a user does: equal to one process; failures end both."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sr.train import checkpoint
from tests.helpers.program import ON_CPU, TWO, sr
from tests.helpers.training import assert_same

pytestmark = pytest.mark.distributed

Recipe = Callable[..., Path]


def test_two_processes_train_as_one(recipe: Recipe, photos: Path, tmp_path: Path) -> None:
    common = {"validation": {"every": 4, "sets": {"own": {"hr": str(photos)}}}, "train__accumulate": 2}
    two = sr("train", recipe(name="two", data__workers=1, **common), launcher=TWO, **ON_CPU)
    assert two.returncode == 0, two.stderr
    one = sr("train", recipe(name="one", **common))
    assert one.returncode == 0, one.stderr
    ends = [checkpoint.load(tmp_path / "runs" / name / "checkpoints" / "step_00000004") for name in ("one", "two")]
    for name, tensors in ends[0].tensors.items():
        optimizer_state = {key: value for key, value in tensors.items() if not key.startswith("exp_avg_sq")}
        assert_same(
            optimizer_state, {k: v for k, v in ends[1].tensors[name].items() if k in optimizer_state}, tolerance=2e-5
        )
    logs = [(tmp_path / "runs" / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    scores = [[v for line in log for k, v in json.loads(line).items() if k.startswith("val/")] for log in logs]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    assert scores[0]


def test_a_user_error_ends_both_processes_with_one_sentence(recipe: Recipe) -> None:
    done = sr("train", recipe(data__batch_size=3), launcher=TWO, **ON_CPU)
    assert done.returncode != 0
    assert done.stderr.count("batch_size 3 is not a multiple of 2 processes") == 1
