"""What fails late must not cost finished steps: the dry run, saving before validation, locks, resumed validations."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from sr.cli import main
from sr.core import signals
from sr.core.errors import UserError
from sr.core.lock import Lock
from sr.data.batch import RawBatch
from sr.distributed import watchdog
from sr.evaluate.validate import measure
from sr.train import checkpoint, run, trainer
from sr.train.builder import Builder, load
from sr.train.ema import EMA
from sr.train.trainer import Trainer
from tests.helpers.tiers import slow

Recipe = Callable[..., Path]


def built(file: Path, *sets: str, accept_changes: bool = False) -> Trainer:
    return Builder(load(file, sets), accept_changes=accept_changes).trainer()


@pytest.fixture
def validated(recipe: Recipe, tmp_path: Path) -> Recipe:
    """A PSNR recipe that validates on a folder of its own at every second step."""
    shutil.copytree(tmp_path / "photos", tmp_path / "val")

    def write(**changes: object) -> Path:
        psnr = {"task": "psnr", "discriminator": None, "losses__gan": None, "optimizer__discriminator": None}
        sets = {"every": 2, "sets": {"v": {"hr": str(tmp_path / "val")}}}
        return recipe(**{**psnr, "validation": sets, "log__every": 1, "save__every": 2, **changes})

    return write


def steps(tmp_path: Path, name: str = "tiny") -> list[int]:
    return checkpoint.steps(tmp_path / "runs" / name / "checkpoints")


def logged(tmp_path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (tmp_path / "runs" / "tiny" / "log.jsonl").read_text().splitlines()]


# ---- before the first step -------------------------------------------------------------------------------------------


def test_an_unreadable_validation_image_ends_the_run_before_training(validated: Recipe, tmp_path: Path) -> None:
    file = validated()
    torn = tmp_path / "val" / "photo_3.png"
    torn.write_bytes(torn.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"before training: .*photo_3\.png"):
        built(file).run()
    assert not (tmp_path / "runs" / "tiny" / "log.jsonl").exists()
    assert not list((tmp_path / "runs" / "tiny").glob(".*")), "scratch files are left"


def test_a_metric_that_fails_ends_the_run_before_training(validated: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def missing(self) -> None:
            return None

        def compute(self, *_: object, **__: object) -> float:
            raise ZeroDivisionError("broken metric")

    monkeypatch.setitem(measure.METRICS, "psnr_y", Broken())
    with pytest.raises(UserError, match="before training: ZeroDivisionError: broken metric"):
        built(validated()).run()


@pytest.mark.parametrize("broken", ["write", "damage", "strips", "log"])
def test_what_cannot_be_written_ends_the_run_before_training(
    validated: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise UserError("no space")

    where, name = {
        "write": (checkpoint, "write"),
        "damage": (checkpoint, "damage"),
        "strips": (sys.modules["sr.train.dry_run"], "write_rgb"),
        "log": (sys.modules["sr.train.dry_run"], "Tracker"),
    }[broken]
    monkeypatch.setattr(where, name, full if broken != "damage" else lambda *_, **__: "a bit differs")
    with pytest.raises(UserError, match=r"before training: .*(no space|a bit differs)"):
        built(validated()).run()
    assert not steps(tmp_path)


# ---- later -----------------------------------------------------------------------------------------------------------


def test_a_validation_that_fails_later_is_counted_and_the_run_ends_well(
    validated: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = trainer.dry_run

    def then_gone(made: Trainer) -> None:
        checked(made)
        shutil.rmtree(tmp_path / "val")

    monkeypatch.setattr(trainer, "dry_run", then_gone)
    run.train(load(validated()))
    assert steps(tmp_path) == [2, 4]
    said = capsys.readouterr().out
    assert said.count("validation failed, ") == 2
    assert "validation   failed 2 time(s)" in said
    assert "no validation images are drawn" in said
    assert [entry["failed_validations"] for entry in logged(tmp_path) if "failed_validations" in entry] == [1, 2]


def test_the_checkpoint_is_on_disk_before_validation(validated: Recipe, tmp_path: Path) -> None:
    made, seen = built(validated()), []
    evaluate = made.evaluate

    class Watching:
        check_images = staticmethod(evaluate.check_images)

        def __call__(self, net: torch.nn.Module, **settings: int) -> object:
            seen.append(steps(tmp_path))
            return evaluate(net, **settings)

    made.evaluate = Watching()
    made.run()
    assert seen == [[], [2], [2, 4]]  # the dry run, and each validation


def test_a_validation_that_was_cut_short_is_repeated_and_the_best_is_kept(validated: Recipe, tmp_path: Path) -> None:
    undisturbed = built(validated(name="whole"))
    undisturbed.run()
    made = built(validated())

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    made.validate = killed
    with pytest.raises(Killed):
        made.run()
    assert steps(tmp_path) == [2]
    resumed = built(validated())
    resumed.run()
    assert resumed.best == undisturbed.best
    again = [entry["step"] for entry in logged(tmp_path) if "val/v/psnr_y" in entry]
    assert again == [2, 4]
    built(validated()).run()  # finished: its last validation is not logged twice
    assert [entry["step"] for entry in logged(tmp_path) if "val/v/psnr_y" in entry] == [2, 4]


def test_steps_before_unreadable_data_are_saved(validated: Recipe, tmp_path: Path) -> None:
    made = built(validated(), "save.every=100", "validation.every=100")
    batches = made.batches

    def failing(consumed: int) -> Iterator[RawBatch]:
        for number, raw in enumerate(batches(consumed)):
            if number == 3:
                raise UserError("the server is down")
            yield raw

    made.batches = failing
    with pytest.raises(UserError, match="the server is down"):
        made.run()
    assert steps(tmp_path) == [3]


def train_on_half_unreadable_data(rank: int, file: Path, port: int) -> None:
    """One of two ranks. The data of the second ends after three steps."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    made = built(file, "save.every=100", "validation.every=100", "train.total_steps=50")
    batches = made.batches

    def failing(consumed: int) -> Iterator[RawBatch]:
        for number, raw in enumerate(batches(consumed)):
            if number == 3 and rank == 1:
                raise UserError("the server is down")
            yield raw

    made.batches = failing
    with pytest.raises(UserError, match="the server is down"):
        made.run()


@pytest.mark.distributed
def test_all_ranks_save_the_steps_before_data_that_one_cannot_read(validated: Recipe, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(train_on_half_unreadable_data, (validated(), port), nprocs=2)
    assert steps(tmp_path) == [3]


def test_steps_before_too_many_bad_samples_are_saved(validated: Recipe, photos: Path, tmp_path: Path) -> None:
    (photos / "photo_3.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"more than data.max_bad_fraction"):
        built(validated(), "save.every=100", "train.total_steps=50").run()
    assert steps(tmp_path) == [logged(tmp_path)[-1]["step"]]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("compile worker died"), "ended after SIGTERM by RuntimeError: compile worker died; run the same"),
        (UserError("a.png: is damaged; remove it"), "a.png: is damaged; remove it"),
    ],
)
def test_any_error_after_a_signal_exits_with_the_code_of_the_signal(
    validated: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    def failing(*_: object, **__: object) -> None:
        with signals.signals():
            os.kill(os.getpid(), signal.SIGTERM)
            raise error

    monkeypatch.setattr(run, "train", failing)
    assert main(["train", str(validated())]) == 128 + signal.SIGTERM
    stderr = capsys.readouterr().err
    assert said in stderr
    assert "Traceback" not in stderr
    assert main(["train", "missing.yml"]) == 2  # a later command of this process has its own exit code


def test_the_first_step_may_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    made = watchdog.Watchdog(rank=0, world=2, timeout=60)
    for first, limit, words in (
        (True, 600, "compilation included"),
        (False, 60, "no step was finished"),
    ):
        made.watch(first=first)
        assert made._deadline - time.monotonic() == pytest.approx(limit, abs=5)
        assert words in made._stuck()
    made.unwatch()
    assert made._deadline == float("inf")


# ---- one run in a folder ---------------------------------------------------------------------------------------------


def hold(path: str, held: object, release: object) -> None:
    with Lock(path, used="", fix=""):
        held.set()  # type: ignore[attr-defined]
        release.wait(60)  # type: ignore[attr-defined]


def test_a_second_run_in_the_folder_is_refused(validated: Recipe, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    folder = tmp_path / "runs" / "tiny"
    other = context.Process(target=hold, args=(str(folder / ".lock"), held, release))
    other.start()
    assert held.wait(60)
    made = built(validated())
    with pytest.raises(UserError, match=rf"runs/tiny: is being trained in by process {other.pid} on host .*; stop it"):
        made.run()
    assert not (folder / "options.yml").exists()
    release.set()
    other.join()
    made.run()
    assert not (folder / ".lock").exists()


# ---- changed options -------------------------------------------------------------------------------------------------


def test_rates_steps_and_logging_change_freely(
    validated: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built(validated(), "train.total_steps=2").run()
    before = (tmp_path / "runs" / "tiny" / "options.yml").read_text()
    built(validated(), "train.total_steps=3", "optimizer.generator.lr=0.0005", "log.every=3").run()
    said = capsys.readouterr().out
    assert "options changed since step 2:" in said
    assert "optimizer.generator.lr  0.001  0.0005" in said
    assert (tmp_path / "runs" / "tiny" / "options_until_step_00000002.yml").read_text() == before
    assert "lr: 0.0005" in (tmp_path / "runs" / "tiny" / "options.yml").read_text()


@pytest.mark.parametrize(
    "changed", ["losses.pixel.weight=2.0", "seed=3", *slow(["data.batch_size=2", "degrade=[{type: downscale}]"])]
)
def test_what_is_learned_changes_with_consent_only(validated: Recipe, tmp_path: Path, changed: str) -> None:
    file = validated(validation={"sets": {}})
    built(file, "train.total_steps=1").run()
    before = (tmp_path / "runs" / "tiny" / "options.yml").read_text()
    key = changed.partition("=")[0]
    with pytest.raises(UserError, match=rf"{key}.*; add --accept-changes"):
        built(file, "train.total_steps=2", changed).run()
    assert (tmp_path / "runs" / "tiny" / "options.yml").read_text() == before
    accepted = built(file, "train.total_steps=2", changed, accept_changes=True)
    accepted.run()
    assert accepted.step == 2


def test_another_optimizer_starts_without_the_old_state(validated: Recipe) -> None:
    file = validated(validation={"sets": {}})
    built(file, "train.total_steps=1").run()
    other = built(file, "train.total_steps=2", "optimizer.generator={type: adamw, lr: 0.001}", accept_changes=True)
    other.run()
    counts = [value for key, value in other.players["generator"].state().items() if key.startswith("step/")]
    assert counts
    assert all(int(count) == 1 for count in counts)


def test_the_one_key_of_another_network_is_named(validated: Recipe) -> None:
    file = validated(validation={"sets": {}})
    built(file, "train.total_steps=1").run()
    with pytest.raises(UserError, match=r"was made with generator.num_grow_ch: 4, the options have 8; use another"):
        built(file, "generator.num_grow_ch=8", accept_changes=True).run()


# ---- fine-tuning, models, logs ---------------------------------------------------------------------------------------


def test_fine_tuning_starts_with_a_baseline_and_no_warm_up(validated: Recipe, tmp_path: Path) -> None:
    built(validated(name="base")).run()
    start = tmp_path / "runs" / "base" / "models" / "net_g_4.safetensors"
    made = built(validated(init={"generator": str(start)}), "train.ema_decay=0.5", "optimizer.generator.lr=0.1")
    assert not made.ema.warm_up
    made.run()
    assert next(entry["step"] for entry in logged(tmp_path) if "val/v/psnr_y" in entry) == 0
    assert made.best["step"] == 0, "a rate of 0.1 was not meant to improve it"
    assert (tmp_path / "runs" / "tiny" / "models" / "net_g_best.safetensors").exists()
    resumed = built(validated(), "train.total_steps=5", "optimizer.generator.lr=0.1", "train.ema_decay=0.5")
    resumed.resume()
    assert not resumed.ema.warm_up, "where the run started from is in the checkpoint"


def test_without_warm_up_the_first_step_counts_little(validated: Recipe) -> None:
    made = built(validated())
    backend = made.players["generator"].backend
    for warm_up, share in ((True, 0.9), (False, 0.001)):
        average = EMA(backend, decay=0.999, warm_up=warm_up)
        before = {name: value.clone() for name, value in average.parts.items()}
        with torch.no_grad():
            for parameter in made.players["generator"].raw.parameters():
                parameter.add_(1.0)
        average.update(step=0)
        for name, value in average.parts.items():
            assert (value - before[name]).mean().item() == pytest.approx(share, rel=1e-2)


def test_old_models_are_removed(validated: Recipe, tmp_path: Path) -> None:
    made = built(validated(), "train.total_steps=4", "save.every=1", "save.keep_models=2")
    models = tmp_path / "runs" / "tiny" / "models"
    models.mkdir(parents=True)
    (models / "net_g_9.safetensors").write_bytes(b"of an abandoned attempt")
    made.run()
    kept = {path.name for path in models.iterdir()}
    assert kept == {f"net_g_{step}.safetensors" for step in ("3", "4", "9", "best")}


def test_redirected_output_has_a_line_for_each_log_entry(validated: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    built(validated()).run()
    said = capsys.readouterr()
    assert [f"step {step} of 4: g/pixel 0." in said.out for step in (1, 2, 3, 4)] == [True] * 4
    assert "\r" not in said.err


# ---- validation targets ----------------------------------------------------------------------------------------------


def test_at_scale_1_the_input_is_degraded_alike_each_time(validated: Recipe) -> None:
    noise = [{"type": "noise", "gaussian_prob": 1.0, "sigma": [50, 50]}, {"type": "downscale"}]
    made = built(validated(scale=1, degrade=noise), "seed=5")
    assert made.evaluate is not None
    items = [item for each in made.evaluate.rounds for val in each.sets for item in val.items]
    first, second = (items[0].load() for _ in range(2))
    assert first.gt is not None
    assert (first.lq - first.gt).abs().mean() > 0.05
    assert torch.equal(first.lq, second.lq)
    assert not torch.equal(first.lq - first.gt, items[1].load().lq - items[1].load().gt)


def test_at_scale_1_without_degradation_hr_alone_is_refused(validated: Recipe, tmp_path: Path) -> None:
    paired = {"type": "folder", "gt": str(tmp_path / "photos"), "lq": str(tmp_path / "photos")}
    with pytest.raises(UserError, match=r"validation.sets.v: hr alone would be compared with itself"):
        load(validated(scale=1, degrade=None, data__source=paired))


@pytest.mark.parametrize("channels", [(3, 1), (3, 3)])
def test_cyclegan_shows_forward_translations_and_measures_cycles(
    recipe: Recipe, tmp_path: Path, photos: Path, channels: tuple[int, int]
) -> None:
    grey = tmp_path / "grey"
    grey.mkdir()
    for path in photos.iterdir():
        Image.open(path).convert("L").save(grey / path.name)
    source = {"type": "unpaired", "a": {"type": "folder", "gt": str(photos)}, "b": {"type": "folder", "gt": str(grey)}}
    file = recipe(
        task="cyclegan",
        scale=None,
        degrade=None,
        generator={"type": "resnet_6blocks", "num_feat": 4, "num_in_ch": channels[0], "num_out_ch": channels[1]},
        discriminator={"type": "patchgan", "num_feat": 4, "num_layers": 2, "norm": "instance"},
        losses={"cycle": {"type": "l1", "weight": 10, "range": 2}, "gan": {"type": "lsgan"}},
        cycle={"identity": 0},
        data={"source": source, "gt_size": 32, "batch_size": 1, "workers": 0},
        train={"total_steps": 1},
        validation={"best": "l1", "sets": {"v": {"source": source, "size": 32}}},
    )
    made = built(file)
    assert made.evaluate is not None
    with made.ema.unsharded() as net:
        results = made.evaluate(net, first=1)
    assert results.means["v/a_to_b"] == {}
    assert "l1" in results.means["v/cycle_a"]
    forward = next(image for name, image in results.images.items() if name.startswith("v/a_to_b/"))
    cycle = next(image for name, image in results.images.items() if name.startswith("v/cycle_a/"))
    assert (forward.shape[1], cycle.shape[1]) == (2 * 32 + 4, 3 * 32 + 2 * 4)
    assert os.listdir(tmp_path).count("runs") == 0
