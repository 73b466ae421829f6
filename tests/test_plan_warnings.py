"""Parts of a plan that never take effect are named by `sr check`, with step numbers and fix."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sr.train.builder import Builder, load
from sr.train.plan_warnings import plan_warnings
from sr.train.summary import summary
from tests.helpers.program import ROOT
from tests.helpers.tiers import slow

Recipe = Callable[..., Path]
SOUND = ("train.total_steps=100", "save.every=50", "log.every=10", "validation.every=50")


def warnings(file: Path, *sets: str) -> list[str]:
    return plan_warnings(Builder(load(file, sets)))


class Dying:
    """A schedule from outside that is 0 from step 73 on."""

    def __call__(self, base: float, step: int) -> float:
        return base if step < 73 else 0.0


def test_a_sound_plan_has_no_warning(recipe: Recipe) -> None:
    assert warnings(recipe(), *SOUND) == []
    assert "warning" not in str(summary(load(recipe(), SOUND)))


@pytest.mark.parametrize("file", sorted((ROOT / "options").glob("*.yml")), ids=lambda path: path.stem)
def test_recipes_have_no_warning(file: Path) -> None:
    assert warnings(file) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "schedule={type: cosine, periods: [2]}",
            "periods end at step 2 of 100: the learning rate of the remaining 98",
        ),
        ("schedule={type: cosine, periods: [20, 30], eta_min: 1e-7}", "end at step 50 of 100"),
        ("schedule={type: cosine, periods: [60, 60]}", "end at step 120, but the run ends at step 100"),
        ("schedule={type: cosine, eta_min: 1}", "eta_min 1 is not below optimizer.generator.lr 0.001"),
        ("schedule={type: multistep, milestones: [50, 100, 200]}", "[100, 200] are never reached"),
        ("schedule={type: linear, warmup_steps: 100}", "warmup_steps 100: the run ends at step 100"),
        ("schedule={type: tests.test_plan_warnings.Dying}", "of the generator is 0 at steps 73 to 99 of 100"),
        ("losses.pixel.weight=0", "losses.pixel.weight is 0"),
        ("losses.gan.weight={type: ramp, to: 1, start: 100}", "losses.gan.weight starts at step 100"),
        ("losses.gan.weight={type: ramp, to: 1, start: 50, over: 51}", "reaches 1 at step 101"),
        (
            "losses.gan.regularizers=[{type: r1, every: 101}]",
            "regularizers.0.every 101 is beyond the last",
        ),
        ("losses.gan.regularizers=[{type: r1, weight: 0}]", "losses.gan.regularizers.0.weight is 0"),
        ("save.every=101", "save.every 101 is beyond the last step, 100"),
        (
            "generator={type: spandrel.DCTLSA, nf: 10, num_head: 2}",
            "other programs open every spandrel.DCTLSA with num_",
        ),
        *slow(
            [
                (
                    "generator={type: spandrel.GRL, embed_dim: 8, depths: [1], num_heads_window: [2], "
                    "num_heads_stripe: [2], window_size: 8, stripe_size: [8, 8]}",
                    "other programs open every spandrel.GRL with window_size",
                )
            ]
        ),
        ("log.every=101", "log.every 101 is beyond"),
    ],
)
def test_what_takes_no_effect_is_named(recipe: Recipe, change: str, words: str) -> None:
    assert any(words in sentence for sentence in warnings(recipe(), *SOUND, change))
    assert f"warning       {warnings(recipe(), *SOUND, change)[0]}" in str(summary(load(recipe(), [*SOUND, change])))


def test_validation_beyond_the_end(recipe: Recipe) -> None:
    file = recipe(validation={"sets": {"own": {"hr": "x"}}})
    assert "validation.every 200 is beyond" in warnings(file, *SOUND, "validation.every=200")[0]
