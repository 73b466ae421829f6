"""The U-Net discriminator and its spectral norm."""

import copy
from importlib.util import find_spec

import pytest
import torch
from torch.nn.utils import spectral_norm

from sr.nets.io.basicsr import basicsr
from sr.nets.spectral import SpectralConv2d
from sr.nets.unet_sn import UNetDiscriminatorSN

needs_basicsr = pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr, the reference, is an extra")


@needs_basicsr
@pytest.mark.parametrize("skip", [True, False])
def test_equals_basicsr_in_value_gradient_and_state(skip):
    reference = basicsr("archs.discriminator_arch").UNetDiscriminatorSN(3, 8, skip_connection=skip)
    ours = UNetDiscriminatorSN(num_feat=8, skip_connection=skip)
    ours.load_state_dict(reference.state_dict())
    for _ in range(3):  # each training forward moves u and v
        x = torch.rand(2, 3, 32, 24)
        got, wanted = ours(x)[0], reference(x)
        assert torch.allclose(got, wanted, atol=1e-6)
        got.mean().backward()
        wanted.mean().backward()
    for name, parameter in reference.named_parameters():
        assert torch.allclose(ours.get_parameter(name).grad, parameter.grad, atol=1e-6), name
    for name, value in reference.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, atol=1e-6), name


def test_any_size():
    net = UNetDiscriminatorSN(num_feat=4)
    for height, width in ((8, 8), (37, 29), (64, 9)):
        (logits,) = net(torch.rand(1, 3, height, width))
        assert logits.shape == (1, 1, height, width)


def test_same_draws_as_torch():
    torch.manual_seed(0)
    theirs = spectral_norm(torch.nn.Conv2d(4, 6, 3, bias=False))
    torch.manual_seed(0)
    ours = SpectralConv2d(4, 6, 3)
    assert all(torch.equal(ours.state_dict()[k], v) for k, v in theirs.state_dict().items())


def test_eval_leaves_the_vectors_alone():
    conv = SpectralConv2d(4, 6, 3).eval()
    before = copy.deepcopy(conv.state_dict())
    conv(torch.rand(1, 4, 8, 8))
    assert all(torch.equal(conv.state_dict()[k], v) for k, v in before.items())


def test_two_forwards_and_a_broadcast_before_one_backward():
    conv = SpectralConv2d(4, 6, 3)
    real, fake = torch.rand(1, 4, 8, 8), torch.rand(1, 4, 8, 8)
    loss = conv(real).mean() - conv(fake).mean()
    conv.weight_u.copy_(conv.weight_u.clone())  # what DDP does to buffers, in place
    loss.backward()
    assert conv.weight_orig.grad.abs().sum() > 0


def test_norm_becomes_one():
    torch.manual_seed(0)
    conv = SpectralConv2d(4, 6, 3)
    for _ in range(50):
        weight = conv._normalised()
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-4)


def test_autocast_does_not_reach_the_power_iteration():
    conv = SpectralConv2d(4, 6, 3)
    twin = copy.deepcopy(conv)
    x = torch.rand(1, 4, 8, 8)
    twin(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
    assert torch.equal(conv.weight_u, twin.weight_u)


def test_runs_in_bf16_weights():
    conv = SpectralConv2d(4, 6, 3).bfloat16()
    assert conv(torch.rand(1, 4, 8, 8).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_of_the_norm_is_that_of_autograd(training):
    conv = SpectralConv2d(4, 6, 3).double().train(training)
    x = torch.rand(2, 4, 7, 8, dtype=torch.float64)
    (conv(x).square()).sum().backward()
    u, v = conv.weight_u, conv.weight_v
    weight = conv.weight_orig.detach().clone().requires_grad_()
    sigma = torch.dot(u.float(), torch.mv(weight.float().flatten(1), v.float()))
    torch.nn.functional.conv2d(x, (weight.float() / sigma).double()).square().sum().backward()
    torch.testing.assert_close(conv.weight_orig.grad, weight.grad, rtol=1e-3, atol=1e-3)
