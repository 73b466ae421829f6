"""Long runs: killed workers, a full disk, and memory that must not grow."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from long_run import Usage, family, mean, sample

from sr import cli
from sr.train import checkpoint
from tests.helpers.program import ROOT
from tests.helpers.training import engine

Recipe = Callable[..., Path]


@contextlib.contextmanager
def training(file: Path, *sets: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "sr", "train", str(file), *(f"--set={one}" for one in sets)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process:
        try:
            yield process
        finally:
            for pid in family(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_worker_is_named_and_the_run_resumes(recipe: Recipe, tmp_path: Path) -> None:
    file, root = recipe(save__every=2), tmp_path / "runs" / "tiny" / "checkpoints"
    with training(file, "data.workers=2", "train.total_steps=100000", "log.every=1") as process:
        until(lambda: checkpoint.steps(root), process)
        before = sample(process.pid)
        workers = family(process.pid)[1:]
        os.kill(workers[-1], signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 2, said
        assert f"DataLoader worker (pid {workers[-1]}) is killed by signal: Killed" in said.replace("(s) ", " ")
        assert "lower data.workers, or give the container more memory" in said
        assert "Traceback" not in said.rpartition("sr: ")[2]
    assert before is not None
    assert before.processes == 1 + len(workers)
    step = checkpoint.steps(root)[-1]
    again = engine(file, f"train.total_steps={step + 1}")
    again.run()
    assert again.step == step + 1


def full(file: Path) -> None:
    """From now on every write to the file finds the disk full."""
    descriptors = {link: os.path.realpath(link) for link in Path("/proc/self/fd").iterdir() if link.exists()}
    for link, target in descriptors.items():
        if target == str(file.resolve()):
            os.dup2(os.open("/dev/full", os.O_WRONLY), int(link.name))
    file.unlink()
    file.symlink_to("/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("what", ["log.jsonl", "samples.jsonl", "tensorboard/*"])
def test_a_full_disk_while_logging_is_one_sentence_and_costs_no_checkpoint(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    from sr.train.trainer import Trainer

    folder, step = tmp_path / "runs" / "tiny", Trainer.train_step

    def and_then_full(self: Trainer, batches: Any) -> None:
        step(self, batches)
        if self.step == 5:
            self.saver.wait()
            full(next(folder.glob(what)))

    monkeypatch.setattr(Trainer, "train_step", and_then_full)
    sets = ["save.every=2", "log.every=1", "log.samples=true", "train.total_steps=400"]
    code = cli.main(["train", str(recipe()), *(f"--set={one}" for one in sets)])
    said = capsys.readouterr().err
    assert code == 2, said
    assert "No space left on device" in said
    assert "Traceback" not in said
    found = checkpoint.load_newest(folder / "checkpoints")
    assert found is not None
    assert found.state["step"] >= 4
    monkeypatch.undo()
    next(folder.glob(what)).unlink()
    again = engine(recipe(), f"train.total_steps={found.state['step'] + 1}")
    again.run()


def test_strips_that_cannot_be_written_cost_nothing(recipe: Recipe, photos: Path, tmp_path: Path, capsys) -> None:
    file = recipe(validation={"every": 2, "sets": {"own": {"hr": str(photos / "photo_0.png")}}, "pictures": 1})
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "strips").write_text("a file where a folder has to be")
    assert cli.main(["train", str(file)]) == 0
    assert "no validation images are drawn: " in capsys.readouterr().out
    assert checkpoint.steps(tmp_path / "runs" / "tiny" / "checkpoints")[-1] == 4
    assert (tmp_path / "runs" / "tiny" / "models" / "net_g_4.safetensors").exists()


def test_the_watcher_sees_processes_files_and_memory(tmp_path: Path) -> None:
    here = sample(os.getpid())
    held = [(tmp_path / str(number)).open("w") for number in range(5)]
    with subprocess.Popen(["sleep", "30"]) as child:
        more = sample(os.getpid())
        child.kill()
    for file in held:
        file.close()
    assert here is not None
    assert more is not None
    assert more.processes == here.processes + 1
    assert more.files >= here.files + 5 + 3
    assert more.trainer > 10
    assert mean([Usage(1, 2, 3, 4, 5), Usage(3, 4, 5, 6, 7)]) == (2, 3, 4, 5, 6)
    assert sample(1 << 30) is None


@pytest.mark.tools
def test_a_short_run_does_not_grow(recipe: Recipe) -> None:
    psnr = {"task": "psnr", "discriminator": None, "losses__gan": None, "optimizer__discriminator": None}
    command = [
        sys.executable,
        "tools/cluster/long_run.py",
        str(recipe(**psnr)),
        "--steps=120",
        "--every=0.05",
        "--growth=0.2",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=ROOT, env=env)
    assert "| last quarter |" in done.stdout, done.stderr


STEPS = """
import platform, resource, torch
from sr.distributed.backends.launch_config import Launch, accelerator
{prepare}
def step():
    return torch.ones(10_000_000), torch.ones(10_000)
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(platform.libc_ver()[0], resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="about glibc")
def test_a_step_on_a_cpu_uses_the_memory_of_the_one_before() -> None:
    faults = []
    for prepare in ("accelerator(Launch())", ""):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
        code = STEPS.format(prepare=prepare)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
        libc, count = done.stdout.split()[-2:]
        faults.append(int(count))
    if libc != "glibc":
        pytest.skip("no glibc")
    assert faults[1] > 20 * 9000, "40 MB are 9765 pages: it did so before, and this could not fail"
    assert faults[0] < faults[1] / 5  # small things may lie in the way of a first few
