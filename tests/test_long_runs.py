"""Long runs: signals, killed workers, a full disk, and memory that must not grow."""

import ctypes
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from long_run import Usage, family, mean, sample

from sr import cli
from sr.distributed.backends.launch_config import Launch, accelerator
from sr.distributed.watchdog import LOST
from sr.train import checkpoint
from tests.helpers.program import ROOT, Forked, until
from tests.helpers.tiers import slow
from tests.helpers.training import engine

Recipe = Callable[..., Path]


LONG = "--set=train.total_steps=100000"


def train(*args: str) -> int:
    return cli.main(["train", *args])


@pytest.mark.parametrize("signum", [signal.SIGTERM, *slow([signal.SIGINT])])
def test_a_signal_finishes_the_step_saves_and_sets_the_exit_code(recipe: Recipe, tmp_path: Path, signum: int) -> None:
    args = (str(recipe(data__workers=1)), LONG, "--set=log.every=2")
    run = Forked(tmp_path / "said", train, *args, trains=True)
    until((tmp_path / "runs" / "tiny" / "log.jsonl").exists, run.ended)
    os.killpg(run.pid, signum)  # as Ctrl-C and Slurm do: the loader's workers get it too
    code, said = run.wait()
    assert code == 128 + signum, said
    assert "run the same command to resume" in said
    assert "Traceback" not in said
    assert len(checkpoint.steps(tmp_path / "runs" / "tiny" / "checkpoints")) == 1


def test_a_killed_worker_is_named_and_the_run_resumes(recipe: Recipe, tmp_path: Path) -> None:
    file, root = recipe(save__every=2, data__workers=2, log__every=1), tmp_path / "runs" / "tiny" / "checkpoints"
    run = Forked(tmp_path / "said", train, str(file), LONG, trains=True)
    until(lambda: bool(checkpoint.steps(root)), run.ended)
    before, workers = sample(run.pid), family(run.pid)[1:]
    os.kill(workers[-1], signal.SIGKILL)
    code, said = run.wait()
    assert code == LOST, said
    death = rf"DataLoader worker \(pid(\(s\))? {workers[-1]}\) (is killed by signal: Killed|exited unexpectedly)"
    assert re.search(death, said), said
    assert "lower data.workers, or give the container more memory" in said
    assert "Traceback" not in said.rpartition("sr: ")[2]
    assert before is not None
    assert before.processes == 1 + len(workers)
    step = checkpoint.steps(root)[-1]
    again = engine(file, f"train.total_steps={step + 1}", "data.workers=0")
    again.run()
    assert again.step == step + 1


def train_on_tmpfs(folder: Path, options: str, kept: Path, *args: str) -> int:
    """Train with a tmpfs on `folder`, in a namespace that ends with this process, and copy to `kept` what is on it."""
    ids = {"uid_map": f"0 {os.getuid()} 1", "gid_map": f"0 {os.getgid()} 1"}
    if ctypes.CDLL(None).unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER, CLONE_NEWNS
        return 99
    for name, value in {"setgroups": "deny", **ids}.items():
        Path("/proc/self", name).write_text(value)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]).returncode:
        return 99
    code = train(*args)
    shutil.copytree(folder, kept)
    return code


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("size=3m", "No space left on device); earlier checkpoints are untouched"),
        ("ro", "step_00000000: cannot be written ([Errno 30] Read-only file system"),
    ],
    ids=["full", "read-only"],
)
def test_checkpoints_that_cannot_be_written_end_the_run_with_one_sentence(
    recipe: Recipe, tmp_path: Path, options: str, words: str
) -> None:
    root, kept = tmp_path / "runs" / "tiny" / "checkpoints", tmp_path / "kept"
    root.mkdir(parents=True)
    args = (str(recipe()), "--set=save.every=1", "--set=train.total_steps=50")
    code, said = Forked(tmp_path / "said", train_on_tmpfs, root, options, kept, *args, trains=True).wait()
    if code == 99:
        pytest.skip(f"this machine allows no tmpfs of our own: {said}")
    assert code == 2, said
    assert "Traceback" not in said
    assert words in said
    if options == "ro":
        assert "before training: " in said
        return
    found = checkpoint.load_newest(kept)
    assert found is not None
    assert f"step_{found.state['step'] + 1:08d}: cannot be written ([Errno 28]" in said
    assert not list(kept.glob(".step*"))


def full(file: Path) -> None:
    """From now on every write to the file finds the disk full."""
    descriptors = {link: os.path.realpath(link) for link in Path("/proc/self/fd").iterdir() if link.exists()}
    for link, target in descriptors.items():
        if target == str(file.resolve()):
            os.dup2(os.open("/dev/full", os.O_WRONLY), int(link.name))
    file.unlink()
    file.symlink_to("/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("what", ["log.jsonl", *slow(["samples.jsonl", "tensorboard/*"])])
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


def faults() -> int:
    """Page faults of 20 steps that take and free 40 MB."""
    for _ in range(5):
        torch.ones(10_000_000), torch.ones(10_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(10_000_000), torch.ones(10_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def faults_by_default_and_kept() -> int:
    os.environ["ACCELERATE_USE_CPU"] = "true"
    print(faults())
    accelerator(Launch())
    print(faults())
    return 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_a_step_on_a_cpu_uses_the_memory_of_the_one_before(tmp_path: Path) -> None:
    """In a process of the server: the allocator of this one may have been set by other tests."""
    code, said = Forked(tmp_path / "said", faults_by_default_and_kept, trains=True).wait()
    assert code == 0, said
    default, kept = map(int, said.split()[-2:])
    assert default > 20 * 9000, "40 MB are 9765 pages: it did so before, and this could not fail"
    assert kept < default / 5  # small things may lie in the way of a first few
