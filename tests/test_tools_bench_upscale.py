"""The benchmark of upscaling: both ways make the same images, in tiles too. Nothing is timed here."""

import argparse
import importlib.util

import bench_upscale
import pytest
import torch

pytestmark = pytest.mark.tools


@pytest.mark.skipif(importlib.util.find_spec("basicsr") is None, reason="basicsr, the reference, is an extra")
@pytest.mark.parametrize("tile", [None, 24])
def test_both_ways_make_the_same_images(tile):
    parser = argparse.ArgumentParser()
    bench_upscale.add(parser)
    sizes = ["--num-feat", "8", "--num-block", "1", "--size", "40", "48", "--images", "2"]
    args = parser.parse_args([*sizes, "--arms", "ours, fp32", "ours, mixed", *(["--tile", str(tile)] if tile else [])])
    args.device, args.pairs, args.memory = torch.device("cpu"), 1, False
    rows = bench_upscale.run(args)
    assert [row.arm for row in rows[1:3]] == ["ours, fp32", "ours, mixed"]
    assert [row.work for row in rows[6:]] == ["file", "file"]
    for row in (*rows[1:3], *rows[4:6]):
        rounding = 1.01 if row.work.startswith("folder") else 0
        assert row.deviation["output"]["max"] * 255 <= rounding + 0.25, row.arm
