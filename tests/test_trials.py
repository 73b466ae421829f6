"""`sr train --profile` and `--find-lr`."""

import gzip
import json
import math

import pytest
from PIL import Image

from sr.cli import main
from sr.train import trials
from sr.train.builder import load
from tests.helpers.training import Recipe

PSNR = {"task": "psnr", "discriminator": None, "losses__gan": None, "optimizer__discriminator": None}


def test_profile(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    """A trace of N steps after the warm-up, and a table; no checkpoint."""
    file = recipe(**PSNR)
    folder = load(file).folder
    assert main(["train", str(file), "--profile", "2", "--set", "data.gt_size=16"]) == 0
    table = capsys.readouterr().out
    rows = table[table.index("operator ") :].split("\n\n")[0].splitlines()[1:]
    assert len(rows) == 10
    assert any("conv" in row for row in rows)
    with gzip.open(folder / "profile.json.gz") as trace:
        names = [event.get("name", "") for event in json.load(trace)["traceEvents"]]
    assert sum(name.startswith("Optimizer.step") for name in names) == 2
    assert [path.name for path in folder.iterdir()] == ["profile.json.gz"]


def test_find_lr(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    """A plot and a suggestion; no checkpoint, and those of the run stay."""
    file = recipe(**PSNR)
    folder = load(file).folder
    folder.mkdir(parents=True)
    (folder / "kept").touch()
    assert main(["train", str(file), "--find-lr", "12", "--set", "data.gt_size=16"]) == 0
    shown = capsys.readouterr()
    assert "learning rate   " in shown.out + shown.err
    assert Image.open(folder / "find_lr.png").size == (720, 320)
    assert {path.name for path in folder.iterdir()} == {"kept", "find_lr.png"}


def test_find_lr_ends_where_the_loss_rises(recipe: Recipe) -> None:
    options = load(recipe(**PSNR), ["optimizer.generator.lr=1.0", "data.gt_size=16"])
    found = trials.find_lr(options, steps=60)
    assert len(found.points) < 60
    assert found.rate < 10


def test_the_steepest_descent_is_suggested() -> None:
    """A sigmoid over the logarithm of the rate, which is steepest at 1e-4, and a rise at its end."""
    rates = [10 ** (-6 + n / 10) for n in range(50)]
    points = [(rate, 1 / (1 + math.exp(3 * (math.log10(rate) + 4))) + max(0, math.log10(rate) + 2)) for rate in rates]
    assert trials.suggestion(points) == pytest.approx(1e-4, rel=0.3)
    noise = [0.1 * (n % 3) * (n < 10) for n in range(50)]  # the first means are over few batches
    noisy = [(rate, loss + extra) for (rate, loss), extra in zip(points, noise, strict=True)]
    assert trials.suggestion(noisy) == pytest.approx(1e-4, rel=0.3)


def test_both_at_once_are_refused(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe()), "--profile", "2", "--find-lr"]) == 2
    assert "--profile and --find-lr exclude each other; give one of them" in capsys.readouterr().err
