"""Pixel losses: their values."""

from importlib.util import find_spec

import pytest
import torch

from sr.losses.pixel import L1, L2, Charbonnier, Huber
from sr.nets.io.basicsr import basicsr

needs_basicsr = pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr, the reference, is an extra")


@needs_basicsr
@pytest.mark.parametrize(
    ("ours", "name", "kwargs"),
    [(L1(), "L1Loss", {}), (L2(), "MSELoss", {}), (Charbonnier(eps=1e-6), "CharbonnierLoss", {"eps": 1e-6})],
)
def test_equals_basicsr(ours, name, kwargs):
    output, target = torch.rand(2, 3, 8, 9), torch.rand(2, 3, 8, 9)
    reference = getattr(basicsr("losses.basic_loss"), name)(**kwargs)
    assert torch.allclose(ours(output, target), reference(output, target), atol=0, rtol=1e-6)


def test_huber_is_a_parabola_inside_delta_and_a_line_outside():
    error = torch.tensor([0.05, 0.3])
    assert torch.allclose(Huber(delta=0.1)(error, torch.zeros(2)), torch.tensor([0.05**2 / 2, 0.1 * 0.25]).mean())


@pytest.mark.parametrize("kind", [L1, L2, Charbonnier, Huber])
def test_range_two_is_the_loss_of_images_in_minus_one_to_one(kind):
    output, target = torch.rand(2, 3, 8, 9), torch.rand(2, 3, 8, 9)
    torch.testing.assert_close(kind(range=2)(output, target), kind()(2 * output - 1, 2 * target - 1))
    assert torch.equal(kind(range=1)(output, target), kind()(output, target))
