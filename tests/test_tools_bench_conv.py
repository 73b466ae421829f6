"""The benchmark of convolutions: both ways give the same. Nothing is timed here."""

import json
from pathlib import Path

import bench_conv
import benchmark
import pytest

from sr.nets.cpu import winograd

pytestmark = pytest.mark.tools


@pytest.mark.skipif(not winograd.available(), reason="installed without a C compiler")
def test_both_ways_give_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_conv, "LAYERS", {"small": (16, 32, 24)})
    monkeypatch.setattr(bench_conv, "AGAIN", 1)
    file = tmp_path / "rows.json"
    line = ["conv", "--device", "cpu", "--pairs", "1", "--layers", "small", "--json", str(file)]
    assert benchmark.main(line) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["arm"] for row in rows] == ["torch", "ours"] * 3
    assert all(row["deviation"]["output"]["cosine"] > 0.999999 for row in rows[1::2])


def test_missing_packages_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_library", None)
    with pytest.raises(SystemExit, match=r"needs a CPU and the compiled convolutions; .* install gcc"):
        benchmark.main(["conv", "--device", "cpu"])
