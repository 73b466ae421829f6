"""Weights over the steps, as options name them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sr.core.errors import UserError
from sr.data.batch import Batch
from sr.train.builder import Builder, load

Recipe = Callable[..., Path]


def gan_weight(file: Path, written: str) -> list[float]:
    """The GAN term's weight at steps 0 to 6."""
    gan_loss = Builder(load(file, [f"losses.gan.weight={written}"])).gan_loss()
    return [gan_loss.weight(step) for step in range(7)]


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("1e-3", [1e-3] * 7),
        ("{type: constant, value: 0.5}", [0.5] * 7),
        ("{type: ramp, to: 1e-3, start: 2}", [0, 0, *[1e-3] * 5]),
        ("{type: ramp, to: 1.0, over: 4}", [0, 0.25, 0.5, 0.75, 1, 1, 1]),
        ("{type: ramp, to: 1.0, start: 2, over: 4}", [0, 0, 0, 0.25, 0.5, 0.75, 1]),
        ("{type: ramp, to: 0.0, begin: 1.0, over: 4}", [1, 0.75, 0.5, 0.25, 0, 0, 0]),
    ],
)
def test_weight_at_each_step(recipe: Recipe, written: str, wanted: list[float]) -> None:
    assert gan_weight(recipe(), written) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("-1.0", "greater than or equal to 0"),
        ("{type: ramp, too: 1.0}", "Did you mean 'to'?"),
        ("{type: ramp, to: -1.0}", "greater than or equal to 0"),
        ("{type: ramp, to: 1.0, start: -5}", "greater than or equal to 0"),
        ("{type: rmap, to: 1.0}", "Did you mean 'ramp'?"),
    ],
)
def test_wrong_weights_are_reported_before_training(recipe: Recipe, written: str, words: str) -> None:
    with pytest.raises(UserError, match=rf"losses\.gan\.weight.*{words.replace('?', '.')}"):
        gan_weight(recipe(), written)


def test_a_term_of_weight_zero_is_left_out_and_not_computed(recipe: Recipe) -> None:
    weight = "losses.pixel.weight={type: ramp, to: 0.5, start: 2}"
    reconstruction = Builder(load(recipe(), [weight])).reconstruction(torch.device("cpu"))
    batch = Batch(*torch.rand(3, 1, 3, 8, 8).unbind())
    assert reconstruction(batch.gt, batch, step=1) == {}
    wanted = 0.5 * (batch.gt - batch.target).abs().mean()
    assert torch.allclose(reconstruction(batch.gt, batch, step=2)["pixel"], wanted)
