"""What log.jsonl and the trackers show of a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import PartialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sr.core.errors import UserError
from sr.train import trackers
from sr.train.builder import load
from sr.train.tracker import Tracker
from sr.train.trackers import Background, MLflow, Run, TensorBoard, WandB
from tests.helpers.training import Recipe, engine

VALUES = {"bad_samples": 0.0, "d/real": 0.7, "g/pixel": 0.5, "g/share_pixel": 1.0, "val/Set 5 (a)/psnr_y": 30.0}
OPTIONS = {"scale": 4, "data": {"source": {"path": "https://me:secret@host/"}, "flip": True}, "degrade": [{"a": 1}]}
IMAGE = np.full((8, 8, 3), 200, np.uint8)


@pytest.fixture(autouse=True)
def _accelerate() -> None:
    PartialState(cpu=True)  # as in training


def attempt(folder: Path, *, resume_step: int, **sinks: Any) -> None:
    tracker = Tracker(Run(folder, OPTIONS, resume_step=resume_step, losses=["g/pixel", "d/real"]), sinks)
    tracker.scalars(VALUES, step=resume_step + 1)
    tracker.image("val/Set 5 (a)/0", IMAGE, step=resume_step + 1)
    tracker.close()


def test_tensorboard_leads_with_the_losses_and_has_the_options_as_text(tmp_path: Path) -> None:
    attempt(tmp_path, resume_step=0, tensorboard=TensorBoard())
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(shown.Tags()["scalars"]) == [
        "1_losses/d/real",
        "1_losses/g/pixel",
        "2_validation/val/Set 5 (a)/psnr_y",
        "3_balance/g/share_pixel",
        "4_run/bad_samples",
    ]
    text = shown.Tensors("options/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.startswith("    scale: 4\n    data:\n")
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 1, **VALUES}


def test_mlflow_resumes_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file store: options, scalars and an image, of two attempts in one run."""
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow: pip install 'sr-train[trackers]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # set by the tracker, and restored by this
    for step in (0, 1):
        attempt(tmp_path / "runs" / "mine", resume_step=step, mlflow=MLflow(experiment="tests"))
    (run,) = mlflow.search_runs(experiment_names=["tests"], output_format="list")
    assert run.info.run_name == "mine"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"scale": "4", "data.flip": "True", "degrade": '[{"a": 1}]'}
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "g/pixel")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.5)]
    assert "val/Set 5 _a_/psnr_y" in run.data.metrics
    assert len([*(tmp_path / "runs" / "mlruns").rglob("*.png")]) == 2


@pytest.mark.slow  # wandb starts a server of its own for each attempt
def test_wandb_resumes_its_run(tmp_path: Path) -> None:
    """Offline: two attempts under one id, with options, scalars and an image."""
    pytest.importorskip("wandb", reason="needs wandb: pip install 'sr-train[trackers]'")
    for step in (0, 1):
        attempt(tmp_path, resume_step=step, wandb=WandB(project="tests", mode="offline"))
    id = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*-{id}/run-{id}.wandb"))
    assert files
    content = b"".join(file.read_bytes() for file in files)
    for text in (b"data.flip", b"g/pixel", b"val/Set 5 _a_/psnr_y"):
        assert text in content
    assert b"secret" not in content
    assert [*(tmp_path / "wandb").glob("offline-run-*/files/media/images/**/*.png")]


class Failing:
    """Starts, and fails at the first entry."""

    def __init__(self, *, at: str = "scalars") -> None:
        self.at, self.calls = at, list[str]()

    def _call(self, name: str) -> str:
        self.calls.append(name)
        if name == self.at:
            raise ConnectionError("the server is gone")
        return "7"

    def start(self, run: Run) -> str:
        return self._call("start")

    def scalars(self, values: object, *, step: int) -> None:
        self._call("scalars")

    def image(self, name: str, image: object, *, step: int) -> None:
        self._call("image")

    def close(self) -> None:
        self._call("close")


def test_a_failure_is_printed_once_and_does_not_end_the_run(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    run = engine(recipe(), "log.trackers=[tensorboard, {type: tests.test_tracker.Failing}]", "log.every=1")
    sink = run.trackers["tests.test_tracker.Failing"]
    run.run()
    assert run.step == run.options.train.total_steps
    assert isinstance(sink, Failing)
    assert sink.calls == ["start", "scalars"]
    said = "log.trackers: tests.test_tracker.Failing failed (the server is gone)"
    assert capsys.readouterr().out.count(said) == 1
    assert json.loads((run.options.folder / "trackers.json").read_text()) == {"tests.test_tracker.Failing": "7"}


def test_a_tracker_that_cannot_start_ends_the_run_before_step_1(recipe: Recipe) -> None:
    run = engine(recipe(), "log.trackers=[{type: tests.test_tracker.Failing, at: start}]")
    with pytest.raises(UserError, match=r"log.trackers: tests.test_tracker.Failing cannot be started \(.*gone\); set"):
        run.run()
    assert run.step == 0
    assert not (run.options.folder / "tensorboard").exists()


def test_a_tracker_without_answer_is_turned_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import threading

    gate, sink = threading.Event(), Failing(at="")
    monkeypatch.setattr(Background, "WAITING", 3)
    monkeypatch.setattr(sink, "scalars", lambda values, *, step: gate.wait())
    background = Background("slow", sink)
    background.start(Run(tmp_path, {}))
    for step in range(9):
        background.scalars({}, step=step)
    assert background._off
    gate.set()
    background.close()


def test_a_missing_package_and_a_tracker_named_twice(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"wandb is not installed; run: pip install 'sr-train\[trackers\]', or"):
        WandB()
    with pytest.raises(UserError, match=r"log.trackers: wandb is named twice; remove one"):
        load(recipe(), ["log.trackers=[wandb, {type: wandb}]"])
    with pytest.raises(UserError, match=r"no 'wand' here. Known: tensorboard, wandb, mlflow, trackio. Did you mean"):
        load(recipe(), ["log.trackers=[wand]"])
