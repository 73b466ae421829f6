"""Two simulated hosts: training recovers from a killed worker with identical weights and leaves nothing behind."""

import signal
import subprocess
import sys
from pathlib import Path

import cluster
import pytest

from tests.helpers.program import ROOT

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's"), pytest.mark.cluster]


@pytest.fixture(autouse=True)
def _allowed() -> None:
    if reason := cluster.forbidden():
        pytest.skip(reason)


def made_by(pid: int) -> list[str]:
    return [found[0] for found in cluster._NAME.finditer(cluster._listed()) if int(found[1]) == pid]


def test_a_killed_worker_is_recovered_from(tmp_path: Path) -> None:
    """Some forty seconds on two idle cores."""
    tool = [
        sys.executable,
        str(ROOT / "tools" / "cluster" / "cluster_test.py"),
        "--nodes",
        "2",
        "--only",
        "kill_worker",
    ]
    tool += ["--steps", "20", "--timeout", "60", "--out", str(tmp_path)]
    with subprocess.Popen(tool, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
        try:
            said, _ = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # it cleans up
            pytest.fail(process.communicate(timeout=30)[0])
    assert process.returncode == 0, said
    assert "| bit-identical | True |" in said
    assert not made_by(process.pid)


def test_the_next_cluster_removes_what_a_crash_left() -> None:
    code = "import cluster, os, pathlib; c = cluster.Cluster(2).__enter__(); "
    code += "c.start(0, ['sleep', '600'], env={}, log=pathlib.Path(os.devnull)); print(os.getpid(), flush=True); "
    code += "os._exit(9)"
    crashed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "tools" / "cluster"
    )
    pid = int(crashed.stdout)
    assert len(made_by(pid)) >= 3
    with cluster.Cluster(1):
        assert not made_by(pid)
