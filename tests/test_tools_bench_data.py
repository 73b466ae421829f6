"""The benchmarks of degradation, loaders and resuming run and compare equal work; nothing is timed here."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from sr.core.errors import UserError
from sr.nets.io.basicsr import basicsr

pytest.importorskip("bench_harness")
import bench_data
import bench_degrade
import bench_resume
from benchmark_table import GOALS

pytestmark = pytest.mark.tools

SHARED = {"pairs": 1, "memory": False, "device": torch.device("cpu")}


def every_goal_is_told(of, rows):
    """The table of goals finds its figures in these rows."""
    told = [goal.value([asdict(row) for row in rows]) for goal in GOALS if goal.of == of]
    assert told
    assert all(told)


@pytest.fixture
def reference():
    try:
        basicsr("models.realesrgan_model")
    except UserError as error:
        pytest.skip(str(error))


def test_both_degradations_give_images_of_the_lq_size(reference):
    args = SimpleNamespace(batch=2, gt=96, crop=64, halo=8, batches=1, kernels=3, **SHARED)
    gt = bench_degrade.photographs(2, 96)
    assert bench_degrade.feed(args)(gt, 0).shape == bench_degrade.ours(args)(gt, 0).lq.shape == (2, 3, 16, 16)
    rows = bench_degrade.run(args)
    assert [row.arm for row in rows[:3]] == ["reference", "ours", "ours, cropped to 80 first"]
    assert rows[3].rate > 0
    every_goal_is_told("degrade", rows)


def test_the_references_kernels_are_kernels(reference):
    made = bench_degrade.reference_kernels()
    for _ in range(20):
        assert all(kernel.shape == (21, 21) and abs(kernel.sum() - 1) < 1e-4 for kernel in next(made))


def test_every_loader_hands_over_batches(reference):
    args = SimpleNamespace(photos=None, samples=2, large=0, batch=2, batches=1, folder=None, **SHARED)
    rows = bench_data.run(args)
    assert [row.arm for row in rows][:2] == ["BasicSR, PNG folder", "ours, PNG"]
    assert len(rows) == 5
    every_goal_is_told("data", rows)


def test_a_place_is_found():
    args = SimpleNamespace(shards=5, per_shard=10, position=43, folder=None, **SHARED)
    rows = bench_resume.run(args)
    assert [row.work for row in rows] == ["sample 43 of 50 in 5 shards"] * 2
    every_goal_is_told("resume", rows)
