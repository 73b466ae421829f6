"""Asynchronous saving: no step waits for the disk, and no failure is lost on any process."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sr.core.errors import UserError
from sr.tasks.psnr import PSNR
from sr.train import checkpoint, host_snapshot, trainer
from sr.train.async_saver import AsyncSaver
from tests.helpers.checkpoints import GROUP, flip
from tests.helpers.program import ROOT
from tests.helpers.training import Recipe, assert_same, engine, run_legs, state

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
PSNR_ALONE = {"task": "psnr", "discriminator": None, "losses__gan": None, "optimizer__discriminator": None}


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing is written before it is set."""
    opened, write = threading.Event(), host_snapshot.write

    def slowly(path: Path, *parts: object) -> str:
        assert opened.wait(60)
        return write(path, *parts)

    monkeypatch.setattr(host_snapshot, "write", slowly)
    yield opened
    opened.set()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own")
def test_the_writer_has_a_lower_priority_than_training(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, write = set(), host_snapshot.write
    monkeypatch.setattr(host_snapshot, "write", lambda *parts: seen.add(os.nice(0)) or write(*parts))
    run, before = engine(recipe()), os.nice(0)
    run.save()
    run.saver.wait()
    assert seen == {max(10, before)}
    assert os.nice(0) == before


def test_training_continues_while_a_snapshot_is_written(recipe: Recipe, tmp_path: Path, gate: threading.Event) -> None:
    run = engine(recipe(), "log.every=1000")
    root, batches = tmp_path / "runs" / "tiny" / "checkpoints", run.batches(0)
    run.train_step(batches)
    then = {key: value.clone() for key, value in state(run).items()}
    run.save()
    run.train_step(batches)
    assert not checkpoint.steps(root), "it was not meant to be written yet"
    assert not all(torch.equal(value, then[key]) for key, value in state(run).items())
    gate.set()
    run.saver.wait()
    found = checkpoint.load_newest(root)
    assert found is not None
    assert_same(then, {f"{name}/{key}": value for name, group in found.tensors.items() for key, value in group.items()})
    model = load_file(tmp_path / "runs" / "tiny" / "models" / "net_g_1.safetensors")
    assert_same(found.tensors["ema"], model)
    found = None
    run.save()
    run.save()  # the same step twice
    run.saver.wait()
    assert checkpoint.steps(root) == [1, 2]
    batches.close()


def failing(monkeypatch: pytest.MonkeyPatch, *, step: int) -> None:
    """The disk is full from the checkpoint of `step` on."""
    write = host_snapshot.write

    def full(path: Path, *parts: object) -> str:
        if int("".join(filter(str.isdigit, path.parent.name)) or 0) >= step:
            raise FULL
        return write(path, *parts)

    monkeypatch.setattr(host_snapshot, "write", full)


@pytest.mark.parametrize("total", [3, 9], ids=["at the end", "at the next log"])
def test_a_failure_ends_the_run_and_the_last_good_one_stays(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int
) -> None:
    failing(monkeypatch, step=3)
    run = engine(recipe(), f"train.total_steps={total}", "save.every=1", "save.keep=1", "log.every=1")
    with pytest.raises(UserError, match=r"step_00000003: cannot be written \(.*No space left.*free space") as caught:
        run.run()
    assert caught.value.exit_code == 2
    assert run.step <= 5
    root = tmp_path / "runs" / "tiny" / "checkpoints"
    assert [path.name for path in root.iterdir()] == ["step_00000002"]
    monkeypatch.undo()
    again = engine(recipe(), "train.total_steps=4")
    again.run()
    assert again.step == 4


def test_no_checkpoint_names_a_missing_best_model(
    recipe: Recipe, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = recipe(validation={"every": 2, "sets": {"own": {"hr": str(photos)}}, "pictures": 0}, save__every=2)
    run = engine(file, "train.total_steps=2")
    export = run.saver._export

    def full(weights: dict[str, Tensor], path: Path, step: int) -> None:
        if "best" in path.name:
            raise FULL
        export(weights, path, step)

    run.saver._export = full
    with pytest.raises(UserError, match=r"net_g_best.safetensors: cannot be written .*No space left"):
        run.run()
    found = checkpoint.load_newest(tmp_path / "runs" / "tiny" / "checkpoints")
    assert found is not None
    assert found.state["best"] == {}


def test_another_error_waits_for_the_disk_and_both_are_reported(
    recipe: Recipe,
    tmp_path: Path,
    gate: threading.Event,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trainer, "dry_run", lambda run: None)
    run = engine(recipe(), "save.every=1", "log.every=1")
    save = run.save

    def saves_and_fails() -> None:
        save()
        threading.Timer(0.2, gate.set).start()
        raise ValueError("of the training")

    run.save = saves_and_fails  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="of the training"):
        run.run()
    assert checkpoint.steps(tmp_path / "runs" / "tiny" / "checkpoints") == [1]
    saver = AsyncSaver(
        tmp_path / "photos" / "photo_0.png", keep=1, keep_models=1, export=lambda weights, path, step: None
    )
    saver.checkpoint({"step": 1}, {"ema": GROUP}, spare=None, model=tmp_path / "m")
    saver.close()
    assert "photo_0.png/step_00000001: cannot be written" in capsys.readouterr().err


@pytest.mark.distributed
def test_every_process_reports_a_failed_save(recipe: Recipe, tmp_path: Path) -> None:
    """Of a folder that cannot be written, and of damage; together they fall back and end as if nothing had been."""
    run = engine(recipe(), "save.every=2")
    run.run()
    root = tmp_path / "runs" / "tiny" / "checkpoints"
    flip(root / "step_00000004" / "discriminator.safetensors")
    (tmp_path / "runs" / "shut").mkdir()
    (tmp_path / "runs" / "shut" / "checkpoints").write_text("a file where a folder has to be")
    legs = [(2, recipe(name="shut"), ("save.every=1", "train.total_steps=50")), (2, recipe(), ())]
    codes, said = run_legs([*legs, (2, recipe(), ("save.fallback=true",))])
    assert codes == [[2, 2], [2, 2], [0, 0]], said
    assert "step_00000000: cannot be written" in said
    assert "step_00000004: damaged, discriminator.safetensors does not match its checksum" in said
    assert said.count("skipped and renamed") == 1
    assert "at step 2" in said
    assert "Traceback" not in said
    found = checkpoint.load_newest(root)
    assert found is not None
    again = {f"{name}/{key}": value for name, group in found.tensors.items() for key, value in group.items()}
    assert_same(state(run), again, tolerance=2e-5)


@pytest.mark.tools
def test_kill_test_while_writing(recipe: Recipe) -> None:
    file = recipe(**PSNR_ALONE)
    command = [sys.executable, "tools/cluster/kill_test.py", str(file), "--kills=3", "--writing", "--spread=0.02"]
    sets = [f"--set={one}" for one in ("train.total_steps=40", "save.every=1", "save.keep=1", "generator.num_feat=32")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *sets], capture_output=True, text=True, timeout=600, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills" in done.stdout
    assert "3 resumes" in done.stdout


def test_the_state_of_a_task_is_restored(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    file = recipe(**PSNR_ALONE)
    pool, seen = torch.rand(3, 3, 4, 4), []
    monkeypatch.setattr(PSNR, "state", lambda self: {"pool": pool})
    monkeypatch.setattr(PSNR, "load_state", lambda self, given: seen.append(given))
    engine(file, "train.total_steps=1").run()
    assert not seen
    engine(file, "train.total_steps=2").run()
    assert torch.equal(seen[0]["pool"], pool)
