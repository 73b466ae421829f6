"""tools/gpu_acceptance.py: stages are limited, written one by one and compared; all of them run on the null GPU."""

import importlib.util
import json
from pathlib import Path

import gpu_parity
import pytest
import torch

from tests import null_gpu
from tests.helpers.program import ROOT

pytestmark = pytest.mark.tools
spec = importlib.util.spec_from_file_location("gpu_acceptance", ROOT / "tools" / "gpu_acceptance.py")
assert spec is not None
assert spec.loader is not None
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

STAGES = """
import json, sys, time
rows = sys.argv[sys.argv.index("--rows") + 1]
row = {"name": sys.argv[1], "value": 2.0, "goal": 1.0, "bound": "least", "met": True, "note": ""}
print(json.dumps(row), file=open(rows, "a"))
if sys.argv[1] == "fails":
    sys.exit("out of luck")
time.sleep(60 if sys.argv[1] == "hangs" else 0)
"""


def test_every_value_is_a_line_and_a_failing_stage_adds_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, out = tmp_path / "stages.py", tmp_path / "a.jsonl"
    script.write_text(STAGES)
    monkeypatch.setattr(tool, "STAGES", script)
    monkeypatch.setattr(
        tool,
        "PARTS",
        {"A": [tool.Stage([name], limit) for name, limit in [("works", 20), ("fails", 20), ("hangs", 1)]]},
    )
    assert tool.main(["--part", "A", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["name"], row["code"]) for row in rows] == [
        ("works", 0),
        *[("fails", 1), ("fails", 1)],
        *[("hangs", 124), ("hangs", 124)],
    ]
    assert [row["note"] for row in rows if row["value"] is None] == ["out of luck", "stopped after 1 s"]
    assert {"clocks", "torch", "python", "commit", "gpu"} <= rows[0].keys()
    table = tool.compare([out, out]).splitlines()
    assert table[2] == "| works | ≥ 1 | 2 | 2 |"


def test_goals_are_bounds_from_above_or_below(tmp_path: Path) -> None:
    from gpu_stages import Record

    record = Record(tmp_path / "rows")
    record("fast", 3.0, least=2.5)
    record("off", 0.1, most=0.01)
    record("absent", None, least=1.0, note="not given")
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [row["met"] for row in rows] == [True, False, None]


@pytest.mark.parametrize("part", list(tool.PARTS))
def test_a_part_takes_nine_minutes_at_most(part: str) -> None:
    assert sum(stage.limit for stage in tool.PARTS[part]) <= 540


def test_the_parity_of_float32_is_within_the_goals() -> None:
    cpu = torch.device("cpu")
    assert all(output < 1e-5 and gradients < 1e-3 for _, output, gradients in gpu_parity.nets(cpu, None))
    assert all(off < 0.5 / 255 for _, off in gpu_parity.stages(cpu, [torch.rand(3, 64, 64), torch.rand(3, 60, 48)]))


@pytest.mark.slow
@pytest.mark.skipif(null_gpu.missing() is not None, reason=str(null_gpu.missing()))
@pytest.mark.parametrize("part", list(tool.PARTS))
def test_every_stage_runs_whole_on_the_null_gpu(tmp_path: Path, part: str) -> None:
    out = tmp_path / "rows.jsonl"
    assert tool.main(["--part", part, "--out", str(out), "--rehearse"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["stage"].split()[0] for row in rows} == {stage.words[0] for stage in tool.PARTS[part]}
    assert not [row for row in rows if row["code"]]
