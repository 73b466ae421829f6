"""The loop: accumulation, resume to the last bit, stops, losses that are not finite, bad samples."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from sr.core.errors import UserError
from sr.data import FolderSource
from sr.losses.adversarial.vanilla import Vanilla
from sr.tasks.sr_gan import SRGAN
from sr.tasks.task import GANLoss, ReconstructionLosses, frozen
from sr.train import checkpoint
from sr.train.tracker import NotFinite
from tests.helpers.program import ROOT, sr, until
from tests.helpers.tiers import slow
from tests.helpers.training import Recipe, assert_same, engine, state

SMALL = "data.gt_size=16"  # convolutions in fp16 are slow on a CPU


def test_training_moves_both_players_and_the_average(recipe: Recipe) -> None:
    run = engine(recipe())
    before = {key: value.clone() for key, value in state(run).items()}
    run.run()
    after = state(run)
    moved = {key.split("/")[0] for key, value in before.items() if not torch.equal(value, after[key])}
    assert moved == {"generator", "discriminator", "ema"}


@pytest.mark.parametrize("precision", ["fp32", *slow(["bf16", "fp16"])])
def test_stopped_and_resumed_equals_undisturbed(recipe: Recipe, precision: str) -> None:
    sets = (f"train.precision={precision}", "train.accumulate=2", "train.clip_norm=1.0", "save.every=2", SMALL)
    whole = engine(recipe(name="whole"), *sets, "train.total_steps=4")
    whole.run()
    part = recipe(name="part")
    engine(part, *sets, "train.total_steps=2").run()
    rest = engine(part, *sets, "train.total_steps=4", "data.workers=1")
    torch.rand(7), np.random.rand(7), random.random()  # another history of the global generators
    rest.run()
    assert rest.step == 4
    assert_same(state(whole), state(rest))


def test_accumulation_equals_the_whole_batch(recipe: Recipe) -> None:
    """Without a critic: spectral norm iterates once a forward, so the number of forwards is part of its function."""
    psnr = {"task": "psnr", "discriminator": None, "losses__gan": None, "optimizer__discriminator": None}
    one = engine(recipe(name="one", **psnr), "train.total_steps=1")
    one.run()
    two = engine(recipe(name="two", **psnr), "train.total_steps=1", "train.accumulate=2")
    two.run()
    optimizer_state = {k: v for k, v in state(one).items() if "/exp_avg/" in k}  # after one step: the gradient itself
    assert optimizer_state
    assert_same(optimizer_state, {k: v for k, v in state(two).items() if k in optimizer_state}, tolerance=1e-6)


@pytest.mark.slow
def test_kill_9_and_the_same_command_again(recipe: Recipe, tmp_path: Path) -> None:
    sets = ["--set", "train.total_steps=40", "--set", "save.every=5", "--set", "save.keep=2"]
    whole = recipe(name="whole")
    assert sr("train", whole, *sets).returncode == 0
    file = recipe(name="killed")
    root = tmp_path / "runs" / "killed" / "checkpoints"
    command = [sys.executable, "-m", "sr", "train", str(file), *sets]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        until(lambda: bool(checkpoint.steps(root)), lambda: process.poll() is not None)
        process.send_signal(signal.SIGKILL)
    reached = checkpoint.steps(root)[-1]
    assert reached < 40, "killed too late to prove anything"
    again = sr("train", file, *sets)
    assert again.returncode == 0, again.stderr
    assert f"at step {reached}" in again.stdout + again.stderr
    ours, theirs = (
        checkpoint.load(tmp_path / "runs" / n / "checkpoints" / "step_00000040") for n in ("killed", "whole")
    )
    for name, tensors in theirs.tensors.items():
        assert_same(tensors, ours.tensors[name])
    assert len(checkpoint.steps(root)) == 2


class Infinite(nn.Module):
    """Fine for two calls, then inf."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return (output - target).abs().mean() / (0.0 if self.calls > 2 else 1.0)


def test_a_loss_that_is_not_finite_is_named_and_nothing_is_saved(recipe: Recipe, tmp_path: Path) -> None:
    file = recipe(losses__odd={"type": "tests.test_engine.Infinite"}, log__every=100)
    with pytest.raises(NotFinite, match=r"g/odd was not finite at step 3 on rank 0.*lower the learning rate") as caught:
        engine(file, "train.total_steps=4").run()
    assert caught.value.exit_code != 0
    assert not checkpoint.steps(tmp_path / "runs" / "tiny" / "checkpoints")


def test_bad_samples_are_counted_and_too_many_end_the_run(recipe: Recipe, photos: Path) -> None:
    broken = photos / "photo_3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    file = recipe()
    with pytest.raises(UserError, match=r"more than data.max_bad_fraction 0.01 allows"):
        engine(file, "train.total_steps=8").run()
    run = engine(recipe(name="lenient"), "data.max_bad_fraction=0.5")
    run.run()
    assert run.bad >= 1


def test_waiting_for_data_is_reported_with_its_share(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    read = FolderSource.read
    monkeypatch.setattr(FolderSource, "read", lambda *place: (time.sleep(0.05), read(*place))[1])
    engine(recipe(log__every=1), "train.total_steps=3", "data.workers=0", SMALL).run()
    lines = (tmp_path / "runs" / "tiny" / "log.jsonl").read_text().splitlines()
    shares = [row["data_wait"] for row in map(json.loads, lines) if "data_wait" in row]
    assert len(shares) == 3
    assert all(0.02 < share <= 1 for share in shares)
    told = [line for line in "".join(capsys.readouterr()).splitlines() if "waits for data" in line]
    assert [line.partition(":")[0] for line in told] == ["step 3"]
    assert f"{shares[2]:.0%} of the time: raise data.workers" in told[0]


def test_another_architecture_is_refused_before_anything_changes(recipe: Recipe) -> None:
    engine(recipe()).run()
    with pytest.raises(UserError, match=r"was made with generator.num_feat: 8, .*use another `name`"):
        engine(recipe(), "generator.num_feat=16").run()


def test_a_damaged_checkpoint_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    engine(recipe(), "save.every=2").run()
    folder = tmp_path / "runs" / "tiny" / "checkpoints" / "step_00000004"
    weights = folder / "generator.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"step_00000004: damaged, generator.safetensors.*remove that folder"):
        engine(recipe(), "train.total_steps=6").run()
    weights.write_bytes(content[:-9])
    with pytest.raises(UserError, match="bytes where the manifest has"):
        engine(recipe(), "train.total_steps=6").run()


def test_best_is_kept_and_old_checkpoints_go(recipe: Recipe, photos: Path, tmp_path: Path) -> None:
    file = recipe(validation={"every": 1, "sets": {"own": {"hr": str(photos)}}, "pictures": 1})
    run = engine(file, "train.total_steps=6", "save.every=1", "save.keep=2")
    run.run()
    kept = checkpoint.steps(tmp_path / "runs" / "tiny" / "checkpoints")
    assert set(kept) == {5, 6, run.best["step"]}
    assert (tmp_path / "runs" / "tiny" / "models" / "net_g_best.safetensors").is_file()


@pytest.mark.parametrize("best", ["ssim_y", *slow(["psnr_rgb"])])
def test_best_by_any_metric(recipe: Recipe, photos: Path, best: str) -> None:
    file = recipe(validation={"every": 4, "sets": {"own": {"hr": str(photos)}}, "best": best})
    run = engine(file)
    run.run()
    assert run.best["metric"] == best


def test_measures_what_is_asked_and_a_gan_has_a_perceptual_best(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images are too small for NIQE in the second run, which falls back to PSNR."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "no weights"))
    for name, side, best in (("large", 200, "niqe"), ("small", 48, "psnr_y")):
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
        sets = {"own": {"hr": str(tmp_path / f"{name}.png")}}
        asked = {"every": 2, "sets": sets, "metrics": ["l1", "dists"]}
        run = engine(recipe(name=name, validation=asked), "train.total_steps=2")
        run.run()
        assert run.best["metric"] == best
        (row,) = (line for line in map(json.loads, (run.options.folder / "log.jsonl").open()) if "val/own/l1" in line)
        assert f"val/own/{best}" in row
        assert "val/own/ssim_y" not in row, "it was not asked for"
        shown = capsys.readouterr().out
        assert f"net_g_best is chosen by {best}; no lpips: AlexNet's weights" in shown
        assert "validation.metrics: dists is not measured: VGG16's weights" in shown


def test_an_overflow_that_the_scaler_answers_is_no_failure(recipe: Recipe) -> None:
    run = engine(recipe(), "train.precision=fp16", "train.clip_norm=1.0", "train.total_steps=6", SMALL)
    for player in run.players.values():
        player.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = [p.clone() for p in run.players["generator"].raw.parameters()]
    run.run()
    assert run.players["generator"].scaler.get_scale() < 2.0**60
    assert all(torch.isfinite(p).all() for p in run.players["generator"].raw.parameters())
    assert all(torch.equal(p, q) for p, q in zip(before, run.players["generator"].raw.parameters(), strict=True))


def test_a_term_that_starts_late_leaves_its_player_alone_until_then(recipe: Recipe) -> None:
    late = {"type": "ramp", "to": 1.0, "start": 3}
    run = engine(recipe(losses__pixel={"type": "l1", "weight": late}, losses__gan={"type": "hinge", "weight": late}))
    before = [p.clone() for p in run.players["generator"].raw.parameters()]
    batches = run.batches(0)
    for _ in range(3):
        run.train_step(batches)
    assert all(torch.equal(p, q) for p, q in zip(before, run.players["generator"].raw.parameters(), strict=True))
    run.train_step(batches)
    assert not all(torch.equal(p, q) for p, q in zip(before, run.players["generator"].raw.parameters(), strict=True))


def test_any_optimizer_resumes(recipe: Recipe) -> None:
    part = {"type": "tests.helpers.training.Momentum", "lr": 1e-3}
    whole = engine(recipe(name="whole", optimizer__generator=part), "train.total_steps=4", SMALL)
    whole.run()
    engine(recipe(name="part", optimizer__generator=part), "train.total_steps=2", SMALL).run()
    rest = engine(recipe(name="part", optimizer__generator=part), "train.total_steps=4", SMALL)
    rest.run()
    assert any("momentum_buffer" in key for key in state(rest))
    assert_same(state(whole), state(rest))


def test_a_refused_run_keeps_the_manifest_and_equal_options_resume(recipe: Recipe, tmp_path: Path) -> None:
    engine(recipe()).run()
    record = tmp_path / "runs" / "tiny" / "options.yml"
    text = record.read_text()
    with pytest.raises(UserError):
        engine(recipe(), "generator.num_feat=16").run()
    assert record.read_text() == text
    (tmp_path / "runs" / "tiny" / "checkpoints" / "step_00000004_backup").mkdir()
    run = engine(record, "train.total_steps=5")  # its own record, every default spelled out
    run.run()
    assert run.step == 5


def test_sizes_that_do_not_fit_are_refused_before_any_output(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the discriminator does not take images of 3x32x32.*data.gt_size"):
        engine(recipe(discriminator={"type": "patchgan", "num_layers": 6}))
    with pytest.raises(UserError, match="degrade: makes inputs of 1 channels, and the generator takes 3"):
        engine(recipe(generator={"type": "rrdbnet", "num_feat": 8, "num_block": 1, "num_grow_ch": 4, "num_out_ch": 1}))
    assert not (tmp_path / "runs").exists()


class Counted(nn.Upsample):
    """A generator that notes how often it sees numbers. `needs`: it looks at them."""

    seen = 0

    def __init__(self, *, scale: int, needs: bool) -> None:
        super().__init__(scale_factor=scale)
        self.weight, self.needs = nn.Parameter(torch.ones(())), needs

    def forward(self, x: Tensor) -> Tensor:
        Counted.seen += not isinstance(x, FakeTensor)
        if self.needs and bool(x.mean() > 2):
            raise AssertionError("no image")
        return super().forward(x * self.weight)


@pytest.mark.parametrize("needs", [False, True])
def test_sizes_are_tried_without_numbers_where_that_can_be(
    recipe: Recipe, needs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counted, "seen", 0)
    engine(recipe(generator={"type": "tests.test_engine.Counted", "needs": needs}))
    assert Counted.seen == needs


def test_grey_images_are_trained_on_as_they_are(recipe: Recipe) -> None:
    grey = {"type": "rrdbnet", "num_feat": 8, "num_block": 1, "num_grow_ch": 4, "num_in_ch": 1, "num_out_ch": 1}
    run = engine(recipe(generator=grey, degrade=[{"type": "blur"}, {"type": "jpeg"}, {"type": "downscale"}]))
    run.run()
    assert run.step == 4


def _gan(generator: nn.Module, discriminator: nn.Module) -> SRGAN:
    gan = GANLoss(Vanilla(), lambda step: 1.0)
    return SRGAN(generator=generator, discriminator=discriminator, reconstruction=ReconstructionLosses({}), gan=gan)


def test_the_gan_term_reaches_the_generator_and_only_it() -> None:
    from sr.data.batch import Batch
    from sr.nets.unet_sn import UNetDiscriminatorSN

    generator, discriminator = nn.Conv2d(3, 3, 1), UNetDiscriminatorSN(num_feat=8)
    images = torch.rand(2, 3, 32, 32)
    phases = _gan(generator, discriminator).step(Batch(lq=images, gt=images, target=images), 0)
    sum(next(phases).losses.values()).backward()  # type: ignore[union-attr]
    assert generator.weight.grad is not None
    assert generator.weight.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())
    generator.weight.grad = None
    phase = next(phases)
    sum(phase.losses.values()).backward()  # type: ignore[union-attr]
    assert generator.weight.grad is None
    assert all(p.grad is not None for p in discriminator.parameters())
    assert phase.report.keys() == {"logit_real", "logit_fake", "accuracy_real", "accuracy_fake"}


def test_frozen_restores_on_error() -> None:
    net = nn.Linear(2, 2)
    with pytest.raises(RuntimeError), frozen(net):
        raise RuntimeError
    assert all(p.requires_grad for p in net.parameters())
