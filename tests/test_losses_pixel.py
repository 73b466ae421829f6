"""Pixel losses."""

import torch

from sr.losses.pixel import L1


def test_l1_in_float32_with_gradient():
    output = torch.rand(2, 3, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    target = torch.rand(2, 3, 8, 8)
    loss = L1()(output, target)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, (output.float() - target).abs().mean())
    loss.backward()
    assert output.grad.abs().sum() > 0
