"""The benchmark of OpenMP's wait policies: its table, and one real measurement. Nothing is compared here."""

from pathlib import Path
from types import SimpleNamespace

import bench_busy
import pytest

pytestmark = pytest.mark.tools
ARGS = SimpleNamespace(options=bench_busy.ROOT / "options" / "quickstart.yml", cores=2, steps=1, side=16, pairs=2)


def test_every_arm_is_measured_on_an_idle_and_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def measured(
        args: object, folder: Path, cores: list[int], work: str, policy: dict[str, str], *, steps: int
    ) -> float:
        asked.append((work, tuple(policy)))
        return 2.0 if "OMP_WAIT_POLICY" in policy else 4.0

    monkeypatch.setattr(bench_busy, "measured", measured)
    rows = bench_busy.run(ARGS)  # type: ignore[arg-type]
    assert [row.work for row in rows[::3]] == ["step, idle", "step, busy", "forward, idle", "forward, busy"]
    assert [row.ratio for row in rows[:3]] == [1.0, 2.0, 2.0]
    assert rows[3].note == "1.00 x idle"
    assert len(asked) == 1 + 2 * 2 * 2 * 3


@pytest.mark.slow
def test_one_forward_pass_is_timed(tmp_path: Path) -> None:
    seconds = bench_busy.measured(ARGS, tmp_path, [0], "forward", {}, steps=1)  # type: ignore[arg-type]
    assert 0 < seconds < 60
