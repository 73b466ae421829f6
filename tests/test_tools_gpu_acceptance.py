"""tools/gpu_acceptance.py: stages are limited, written one by one and compared."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.helpers.program import ROOT

pytestmark = pytest.mark.tools
spec = importlib.util.spec_from_file_location("gpu_acceptance", ROOT / "tools" / "gpu_acceptance.py")
assert spec is not None
assert spec.loader is not None
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def test_every_stage_writes_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        tool.Stage("works", ["-c", "pass"], 20),
        tool.Stage("fails", ["-c", "raise SystemExit('out of luck')"], 20),
        tool.Stage("hangs", ["-c", "import time; time.sleep(60)"], 0.3),
    ]
    monkeypatch.setattr(tool, "stages", lambda part, tiny: made)
    monkeypatch.setattr(tool, "machine", lambda: {"gpu": "none"})
    assert tool.main(["--part", "A", "--out", str(tmp_path / "a.jsonl"), "--rehearse"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["code"] for row in rows] == [0, 1, 124]
    assert [row["error"] for row in rows] == ["", "out of luck", "stopped after 0.3 s"]
    table = tool.compare([tmp_path / "a.jsonl"]).splitlines()
    assert table[2].startswith("| works | 1 | 1 | met |")
    assert table[3].startswith("| fails | 0 | 1 | not met |")


def test_ratios_compare_two_arms() -> None:
    rows = [{"arm": "BasicSR, fp32", "seconds": 3.0}, {"arm": "BasicSR strict, fp32", "seconds": 6.0}]
    rows.append({"arm": "ours, bf16", "seconds": 1.0})
    assert tool.ratio("ours")(rows) == 3
    assert tool.ratio("ours", "BasicSR strict")(rows) == 6
    assert tool.ratio("others")(rows) is None


@pytest.mark.parametrize("part", ["A", "B", "C"])
def test_a_part_takes_nine_minutes_at_most(part: str) -> None:
    assert sum(stage.limit for stage in tool.stages(part, tiny=False)) <= 540
    compile(next(iter(tool.stages("A", tiny=True))).words[1], "syncs", "exec")
