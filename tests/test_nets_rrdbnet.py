"""RRDBNet against basicsr's and spandrel's, with the same weights."""

from importlib.util import find_spec

import pytest
import spandrel
import torch

from sr.nets.basicsr import basicsr
from sr.nets.rrdbnet import RRDBNet

needs_basicsr = pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr, the reference, is an extra")

SMALL = {"num_feat": 16, "num_block": 2, "num_grow_ch": 8}


@needs_basicsr
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_equals_basicsr(scale):
    reference = basicsr("archs.rrdbnet_arch").RRDBNet(3, 3, scale=scale, **SMALL)
    ours = RRDBNet(scale=scale, **SMALL)
    ours.load_state_dict(reference.state_dict())
    x = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        assert torch.allclose(ours(x), reference(x), atol=1e-6)


@pytest.mark.parametrize(("scale", "unshuffle"), [(1, True), (1, False), (2, True), (2, False), (4, True), (8, True)])
def test_equals_spandrel(scale, unshuffle):
    ours = RRDBNet(scale=scale, num_feat=16, num_block=2, unshuffle=unshuffle)
    theirs = spandrel.ModelLoader().load_from_state_dict(ours.state_dict())
    x = torch.rand(1, 3, 10, 13)  # no multiple of 4 or 2
    with torch.no_grad():
        assert theirs.scale == scale
        assert torch.allclose(ours(x), theirs.model(x), atol=1e-6)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_any_size(scale):
    with torch.no_grad():
        assert RRDBNet(scale=scale, **SMALL)(torch.rand(1, 3, 5, 7)).shape == (1, 3, 5 * scale, 7 * scale)


def test_channels_last_stays_and_changes_nothing():
    net, x = RRDBNet(scale=4, **SMALL), torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        plain = net(x)
        last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(plain, last, atol=1e-6)


def test_published_size():
    assert sum(p.numel() for p in RRDBNet(scale=4).parameters()) == 16_697_987
