"""RRDBNet against basicsr's and spandrel's, with the same weights."""

import copy
from functools import partial
from importlib.util import find_spec

import pytest
import spandrel
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from sr.nets import dense_block, rrdbnet
from sr.nets.io.basicsr import basicsr
from sr.nets.rrdbnet import RRDBNet
from sr.nets.strips import in_strips

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


def gradients(net: RRDBNet, x: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    net.zero_grad()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
        output = net(x)
    output.square().mean().backward()
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch):
    """A net that keeps every input of a convolution, as autograd does by itself."""

    def build(of: RRDBNet) -> RRDBNet:
        monkeypatch.setattr(rrdbnet, "conv_on", lambda conv, make, *sources: conv(make(*sources)))
        return copy.deepcopy(of)

    return build


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_inputs_made_again_change_no_bit_of_a_gradient(plain, dtype, layout):
    net = RRDBNet(scale=4, **SMALL).to(memory_format=layout)
    x = torch.rand(2, 3, 12, 9).to(memory_format=layout)
    ours = gradients(net, x, dtype)
    assert torch.equal(ours, gradients(plain(net), x, dtype))


def test_a_gradient_of_a_gradient_is_the_same(plain):
    net, x = RRDBNet(scale=2, **SMALL), torch.rand(1, 3, 8, 8, requires_grad=True)

    def second(net: RRDBNet) -> torch.Tensor:
        slope = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)[0]
        slope.square().sum().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters()])

    ours = second(net)
    net.zero_grad()
    assert torch.equal(ours, second(plain(net)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_concatenations_and_upsampled_features_are_not_kept_for_the_backward_pass(monkeypatch, dtype):
    made, on = [], rrdbnet.conv_on

    def noting(conv, make, *sources):
        def noted(*given):
            made.append(StorageWeakRef((whole := make(*given)).untyped_storage()))
            return whole

        return on(conv, noted, *sources)

    monkeypatch.setattr(rrdbnet, "conv_on", noting)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
        output = RRDBNet(scale=4, **SMALL)(torch.rand(1, 3, 8, 8))
    assert len(made) == 2 * 3 * 4 + 2
    assert all(storage.expired() for storage in made)
    assert output.requires_grad


def test_a_weight_changed_before_its_backward_pass_is_an_error():
    net = RRDBNet(scale=4, **SMALL)
    loss = net(torch.rand(1, 3, 8, 8)).sum()
    with torch.no_grad():
        net.body[0].rdb1.conv5.weight.mul_(2)
    with pytest.raises(RuntimeError, match="changed between its forward and its backward"):
        loss.backward()


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@torch.no_grad()
def test_upsampling_in_strips_changes_nothing(scale, monkeypatch):
    """As it does for large images, to save memory."""
    net = RRDBNet(scale=scale, num_feat=8, num_block=1, num_grow_ch=4).eval()
    image, heights = torch.rand(2, 3, 160, 24), []
    whole = net(image)
    monkeypatch.setattr(rrdbnet, "in_strips", partial(in_strips, pixels=1))
    net.conv_hr.register_forward_hook(lambda conv, given, made: heights.append(made.shape[-2]))
    torch.testing.assert_close(net(image), whole, atol=1e-6, rtol=0)
    assert len(heights) > 1
    assert max(heights) < 160 * scale
    with torch.enable_grad():
        net(image)
    assert heights[-1] == 160 * scale


@pytest.mark.parametrize("recompute", [True, False])
def test_the_block_of_a_gpu_equals_autograd(monkeypatch: pytest.MonkeyPatch, recompute: bool) -> None:
    net = rrdbnet.ResidualDenseBlock(8, 4).double()
    net.recompute = recompute
    x = torch.randn(2, 8, 6, 7, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    found = []
    for used in (False, True):
        monkeypatch.setattr(dense_block, "takes", lambda x, convs, used=used: used)
        net.zero_grad()
        x.grad = None
        made = net(x)
        (made * torch.arange(made.numel()).view_as(made)).mean().backward()
        found.append([made.detach(), x.grad, *(parameter.grad for parameter in net.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


def test_recomputing_is_chosen_by_the_free_memory() -> None:
    """The bytes are those of what the block saves; RRDBNet 64/23 needs 3 GiB of them for a batch of 12."""
    net, saved = rrdbnet.ResidualDenseBlock(8, 4).double(), []
    x = torch.randn(2, 8, 6, 7, dtype=torch.float64).requires_grad_()
    for recompute in (True, False):
        made = dense_block.block(x, [*net.children()], recompute=recompute)  # type: ignore[arg-type]
        saved.append(sum(tensor.nbytes for tensor in made.grad_fn.saved_tensors))  # type: ignore[union-attr]
    assert rrdbnet.saved_by_recomputing(net, 2 * 6 * 7, 8) == saved[1] - saved[0]
    needed = rrdbnet.saved_by_recomputing(RRDBNet(scale=4), 12 * 64 * 64, 2)
    assert needed == 69 * 448 * 12 * 64 * 64 * 2
    assert [rrdbnet.is_short(needed, gib * 2**30) for gib in (8, 11, 12, 24)] == [True, True, False, False]
    assert rrdbnet.saved_by_recomputing(torch.nn.Conv2d(3, 3, 3), 100, 2) == 0


def test_the_block_of_a_gpu_casts_weights_and_gradients() -> None:
    torch.manual_seed(0)
    net, x = rrdbnet.ResidualDenseBlock(8, 4), torch.randn(1, 8, 5, 5).bfloat16().requires_grad_()
    dense_block.block(x, (net.conv1, net.conv2, net.conv3, net.conv4, net.conv5)).float().square().mean().backward()
    found = [parameter.grad for parameter in net.parameters()]
    assert {gradient.dtype for gradient in found} == {torch.float32}
    net.zero_grad()
    net(x.detach().float()).square().mean().backward()
    for got, parameter in zip(found, net.parameters(), strict=True):
        assert torch.cosine_similarity(got.flatten(), parameter.grad.flatten(), dim=0) > 0.99
