"""tools/benchmarks/benchmark.py: measurements are correct, and our step equals the reference step."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bench_step
import benchmark
import benchmark_table
import pytest
import torch
from bench_harness import Arm, compare, deviation, kept_bytes, matmul_peak, peak_bytes, table
from benchmark_table import GOALS

pytestmark = pytest.mark.tools

CPU = torch.device("cpu")
needs_basicsr = pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr, the reference, is an extra")


def test_arms_alternate_and_are_compared_with_the_first() -> None:
    calls: list[str] = []

    def arm(name: str, value: float) -> Arm:
        def run() -> torch.Tensor:
            calls.append(name)
            return torch.full((4,), value)

        return Arm(name, run, reset=lambda: calls.append("reset"))

    rows = compare("work", [arm("a", 1.0), arm("b", 1.5)], rounds=2, device=CPU, memory=False)
    assert calls == ["reset", "a", "reset", "b"] * 3
    assert rows[1].deviation == {"output": pytest.approx({"max": 0.5, "cosine": 1.0, "norm": 1.5})}
    assert rows[0].ratio == 1.0
    assert len(table(rows).splitlines()) == 4


def test_kept_bytes_are_the_storages_that_wait_for_backward() -> None:
    x = torch.ones(1000, requires_grad=True)

    def run() -> None:
        y = x * x  # keeps x
        z = y * y[:10].sum()  # keeps y once, and a scalar
        z.sum().backward()
        (x * 3).sum().backward()  # keeps nothing

    assert kept_bytes(run) == 4000 + 4000 + 4


def test_peak_bytes_are_those_allocated_at_once() -> None:
    def run() -> None:
        for _ in range(3):
            a = torch.empty(1_000_000)
            b = torch.empty(500_000)
            del a, b

    run()
    assert 6_000_000 <= peak_bytes(CPU, run) < 6_100_000


def test_what_an_earlier_watched_run_left_does_not_count() -> None:
    left = []
    peak_bytes(CPU, lambda: left.append(torch.empty(2_000_000)))

    def run() -> None:
        left.clear()
        left.append(torch.empty(1_000_000))

    assert 4_000_000 <= peak_bytes(CPU, run) < 4_100_000


def test_deviation_distinguishes_angle_and_length() -> None:
    a = torch.tensor([1.0, 0.0])
    assert deviation(2 * a, a) == {"max": 1.0, "cosine": 1.0, "norm": 2.0}
    assert deviation(a.flip(0), a)["cosine"] == 0.0


def test_the_peak_is_that_of_this_machine() -> None:
    assert 1e8 < matmul_peak(CPU, "fp32") < 1e14


@needs_basicsr
def test_our_step_has_the_gradients_of_basicsr(tmp_path: Path) -> None:
    file, image = tmp_path / "rows.json", tmp_path / "rows.png"
    sizes = ["--gt", "32", "--batch", "1", "--blocks", "1", "--feat", "8", "--pairs", "1", "--no-memory"]
    writing = ["--json", str(file), "--plot", str(image)]
    assert benchmark.main(["step", "--device", "cpu", "--precision", "fp32", *sizes, *writing]) == 0
    reference, ours = json.loads(file.read_text())["rows"]
    assert (reference["arm"], ours["arm"]) == ("BasicSR, fp32", "ours, fp32")
    for player in ("generator", "discriminator"):
        assert ours["deviation"][player]["cosine"] > 0.99999
        assert ours["deviation"][player]["norm"] == pytest.approx(1, abs=1e-3)
    assert 0 < reference["share"] < 2
    assert [bool(goal.value([reference, ours])) for goal in GOALS if goal.of == "step"] == [True, False, True]
    assert image.stat().st_size > 1000


@needs_basicsr
def test_other_trainers_are_refused_in_a_sentence(tmp_path: Path) -> None:
    sizes = ["--gt", "32", "--batch", "1", "--blocks", "1", "--pairs", "1", "--precision", "fp32"]
    with pytest.raises(SystemExit, match=r"neither traiNNer-redux nor neosr; give the root of a checkout"):
        benchmark.main(["step", "--device", "cpu", *sizes, "--other", str(tmp_path)])


@needs_basicsr
def test_steps_that_log_and_save_go_on(tmp_path: Path) -> None:
    file, sizes = tmp_path / "rows.json", ["--gt", "32", "--batch", "1", "--blocks", "1", "--pairs", "1"]
    assert benchmark.main(["overhead", "--device", "cpu", "--json", str(file), *sizes]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["arm"] for row in rows] == ["plain", "logs", "plain", "the first saves"]
    assert [bool(goal.value(rows)) for goal in GOALS if goal.of == "overhead"] == [True] * 2


def rows_of(*arms: tuple[str, str, dict[str, Any]]) -> list[dict[str, Any]]:
    plain = {"ratio": 1.0, "seconds": 2.0, "deviation": {}, "share": 0.5, "peak": 400}
    return [{"work": work, "arm": arm, **plain, **facts} for work, arm, facts in arms]


def test_the_table_marks_the_goals_that_are_met() -> None:
    step = rows_of(("gan 64/23", "BasicSR, fp32", {}), ("gan 64/23", "ours, fp32", {"ratio": 1.3}))
    overhead = rows_of(
        ("a step", "plain", {}),
        ("a step", "logs", {"ratio": 1.0}),
        ("two steps", "plain", {}),
        ("two steps", "the first saves", {"ratio": 1 / 1.05}),  # a tenth of a step
    )
    arms = [("BasicSR, fp32", {}), ("ours, bf16", {"peak": 96, "ratio": 3.5}), ("ours, fp32", {"peak": 112})]
    generator = rows_of(*[("generator 64/23", arm, facts) for arm, facts in arms])
    found = {"step": step, "overhead": overhead, "generator": generator}
    told = benchmark_table.table(found, "cpu").splitlines()
    assert sum(line == "| the same, compiled | not measured |  |  |" for line in told) == 2
    lines = {line.split(" | ")[0][2:]: line for line in told}
    assert lines["GAN step, fp32"] == "| GAN step, fp32 | 1.30x (ours, fp32) | at least 1.2 | met |"
    assert lines["GAN step, our default precision"].endswith("| at least 5.5 | not met |")
    assert lines["peak memory of generator training"].startswith(
        "| peak memory of generator training | 0.24 at 3.50x the speed (ours, bf16; ours, fp32: 0.28) |"
    )
    assert lines["generator in bf16, of the peak of torch.mm"].endswith("| 50% |  |  |")
    assert lines["step that logs"].endswith("| 1.00 of a plain step | at most 1.02 | met |")
    assert lines["step that saves"].endswith("| 1.10 of a plain step | at most 1.05 | not met |")
    assert lines["one loader worker, PNG"].endswith("| not measured | at least 1.4 |  |")


def test_the_reference_keeps_tf32_and_its_strict_arm_has_none() -> None:
    before, seen = torch.backends.cudnn.allow_tf32, []
    bench_step.strict(lambda: seen.append(torch.backends.cudnn.allow_tf32))()
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_an_interrupted_table_keeps_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(words: list[str], device: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        if words[0] == "overhead":
            raise KeyboardInterrupt
        return {"cpu": "any"}, [{"work": words[0]}]

    monkeypatch.setattr(benchmark_table, "measure", measure)
    monkeypatch.setattr("sys.argv", ["benchmark_table.py", "--device", "cpu", "--json", str(tmp_path / "table.json")])
    with pytest.raises(KeyboardInterrupt):
        benchmark_table.main()
    assert [*json.loads((tmp_path / "table.json").read_text())["rows"]] == ["step", "generator"]
