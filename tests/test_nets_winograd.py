"""The faster convolutions against torch's own, and the nets that use them."""

import copy
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.nets.cpu import dense, winograd
from sr.nets.rrdbnet import ResidualDenseBlock, RRDBNet
from sr.nets.spectral import SpectralConv2d

LAST, CPU = torch.channels_last, torch.device("cpu")
CLOSE = 1e-5  # of the length of what is compared; rounding is about 3e-6


def test_it_is_built_where_there_is_a_compiler() -> None:
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler here")
    assert winograd.available()


needs_library = pytest.mark.skipif(not winograd.available(), reason="installed without a C compiler")


@needs_library
def test_one_of_another_version_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert winograd._load() is not None
    monkeypatch.setattr(winograd, "VERSION", 0)
    assert winograd._load() is None


@pytest.fixture(params=[0, 1, 2], ids=["all", "no AVX-512", "no AVX"])
def instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the processor has, and less of it."""
    winograd._library.winograd_forbid(request.param)
    yield
    winograd._library.winograd_forbid(0)


def off(got: Tensor, wanted: Tensor) -> float:
    return float((got.detach().double() - wanted).norm() / wanted.norm())


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def all_of(conv: Any, x: Tensor, weight: Tensor, bias: Tensor | None, gradient: Tensor) -> list[Tensor]:
    """What a convolution makes, and the gradients of all that goes in."""
    given = [each.clone().requires_grad_() for each in (x, weight, bias) if each is not None]
    made = conv(*given)
    return [made.detach(), *torch.autograd.grad(made, given, gradient)]


SHAPES = [  # batch, in, out, height, width: whole tiles, cut ones, several chunks of tiles, odd numbers of panels
    (1, 16, 16, 24, 32),
    (2, 48, 80, 31, 22),
    (3, 32, 16, 5, 58),
    (1, 16, 112, 61, 47),
]


@needs_library
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_equals_torch_with_all_gradients(shape: tuple[int, ...], layout: Any, instructions: None) -> None:
    batch, inside, out, height, width = shape
    x, weight = (
        drawn(*sizes).to(memory_format=layout) for sizes in ((batch, inside, height, width), (out, inside, 3, 3))
    )
    bias, gradient = drawn(out), drawn(batch, out, height, width)
    assert winograd.fits(x, weight)
    ours = all_of(lambda *a: winograd.conv2d(*a, stride=1, padding=1), x, weight, bias, gradient)
    theirs = all_of(lambda *a: F.conv2d(*a, padding=1), *(t.double() for t in (x, weight, bias, gradient)))
    assert [off(*pair) < CLOSE for pair in zip(ours, theirs, strict=True)] == [True] * 4
    assert ours[2].stride() == weight.stride()


@needs_library
@pytest.mark.parametrize("shape", [*SHAPES, (1, 192, 64, 61, 47)], ids=str)
def test_tiles_of_6_equal_torch_in_both_directions(shape: tuple[int, ...], instructions: None) -> None:
    batch, inside, out, height, width = shape
    x, weight, bias = drawn(batch, inside, height, width), drawn(out, inside, 3, 3), drawn(out)
    made = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    assert off(winograd.conv(x, weight, bias, side=6), made) < CLOSE
    back = F.conv_transpose2d(made, weight.double(), padding=1)
    assert off(winograd.conv(made.float(), weight, transposed=True, side=6), back) < CLOSE


@needs_library
def test_tiles_of_6_are_for_large_images_without_gradients() -> None:
    x, weight = drawn(1, 16, 66, 64), drawn(16, 16, 3, 3)
    assert [winograd.side(each) for each in (x, x[..., :20, :20])] == [6, 4]
    made = [winograd.conv(x, weight, side=each) for each in (4, 6)]
    assert not torch.equal(*made)
    weight.requires_grad_()
    assert torch.equal(winograd.conv2d(x, weight, stride=1, padding=1), made[0])
    with torch.no_grad():
        assert torch.equal(winograd.conv2d(x, weight, stride=1, padding=1), made[1])


@needs_library
@pytest.mark.parametrize("shape", [(1, 16, 32, 96, 88), (2, 4, 16, 66, 82)], ids=str)
def test_four_taps_of_stride_2_equal_torch(shape: tuple[int, ...]) -> None:
    batch, inside, out, height, width = shape
    x, weight = drawn(batch, inside, height, width), drawn(out, inside, 4, 4)
    gradient = drawn(batch, out, height // 2, width // 2)
    assert winograd.folds(x, weight)
    ours = all_of(lambda *a: winograd.conv2d(*a, stride=2, padding=1), x, weight, None, gradient)
    theirs = all_of(lambda *a: F.conv2d(*a, stride=2, padding=1), x.double(), weight.double(), None, gradient.double())
    assert [off(*pair) < CLOSE for pair in zip(ours, theirs, strict=True)] == [True] * 3


@needs_library
@pytest.mark.parametrize("side", [4, 6])
def test_some_channels_of_a_tensor_are_read_and_written_where_they_lie(side: Any, instructions: None) -> None:
    whole = drawn(2, 64, 18, 21).contiguous(memory_format=LAST)
    before, weight, bias = whole.clone(), drawn(16, 32, 3, 3), drawn(16)
    into = whole[:, 48:]
    winograd.conv(whole[:, 16:48], weight, bias, factor=0.5, slope=0.2, add=into, into=into, side=side)
    made = F.conv2d(before[:, 16:48].double(), weight.double(), bias.double(), padding=1)
    assert torch.equal(whole[:, :48], before[:, :48])
    assert off(whole[:, 48:], F.leaky_relu(0.5 * made, 0.2) + before[:, 48:]) < CLOSE


@needs_library
def test_the_number_of_threads_changes_no_bit() -> None:
    x, weight, gradient = drawn(2, 64, 40, 37), drawn(48, 64, 3, 3), drawn(2, 48, 40, 37)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            both = [winograd.conv(x, weight, side=side) for side in (4, 6)]
            found.append((*both, winograd.kernel_gradient(x, gradient, weight)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@needs_library
def test_numbers_that_are_not_finite_stay_so() -> None:
    x, weight = drawn(1, 16, 24, 24), drawn(16, 16, 3, 3)
    x[0, 3, 10, 10] = torch.nan
    assert not torch.isfinite(winograd.conv(x, weight)[:, :, 9:12, 9:12]).any()


@needs_library
def test_gradients_of_gradients_are_those_of_torch() -> None:
    def second(conv: Any, dtype: torch.dtype) -> list[Tensor]:
        x, weight = (drawn(*s).to(dtype).requires_grad_() for s in ((1, 16, 24, 24), (16, 16, 3, 3)))
        slope = torch.autograd.grad(conv(x, weight).square().sum(), x, create_graph=True)[0]
        return list(torch.autograd.grad(slope.square().sum(), (x, weight)))

    ours = second(lambda *a: winograd.conv2d(*a, stride=1, padding=1), torch.float32)
    theirs = second(lambda *a: F.conv2d(*a, padding=1), torch.float64)
    assert all(off(*pair) < CLOSE for pair in zip(ours, theirs, strict=True))


def test_what_does_not_fit_goes_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = drawn(1, 16, 24, 24), drawn(16, 16, 3, 3)
    assert winograd.fits(x, weight) == winograd.available()
    others = [
        (x[:, :8], weight[:, :8]),
        (x[..., :8, :8], weight),
        (x.double(), weight.double()),
        (x.bfloat16(), weight),
    ]
    others += [(x, drawn(16, 16, 5, 5)), (x, drawn(24, 16, 3, 3)), (x.to("meta"), weight)]
    assert not any(winograd.fits(*pair) for pair in others)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not winograd.fits(x, weight)
    monkeypatch.setattr(winograd, "_library", None)  # no compiler when it was installed
    assert not winograd.fits(x, weight)
    assert torch.equal(winograd.conv2d(x, weight, stride=1, padding=1), F.conv2d(x, weight, padding=1))


def test_only_matching_convolutions_are_replaced() -> None:
    other: list[dict[str, Any]] = [{"stride": 2}, {"padding": 0}, {"dilation": 2}, {"groups": 2}]
    other += [{"padding_mode": "reflect"}, {"kernel_size": 1}]
    make: dict[str, Any] = {"kernel_size": 3, "padding": 1}
    net = nn.Sequential(nn.Conv2d(4, 4, **make), *(nn.Conv2d(4, 4, **make | each) for each in other))
    winograd.use_fast_conv(net, CPU)
    assert [type(conv) for conv in net] == [winograd.Conv2d] + [nn.Conv2d] * len(other)


def test_other_devices_are_unchanged_and_a_missing_library_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    monkeypatch.setattr(winograd, "_library", None)
    assert type(winograd.use_fast_conv(conv, torch.device("cuda"))) is nn.Conv2d
    with pytest.warns(UserWarning, match="without a C compiler.*install one"):
        winograd.use_fast_conv(conv, CPU)


def test_a_net_stays_the_same_net() -> None:
    net = RRDBNet(scale=2, num_feat=16, num_block=1, num_grow_ch=16)
    fast, x = winograd.use_fast_conv(copy.deepcopy(net), CPU), drawn(1, 3, 60, 60)
    fast.load_state_dict(net.state_dict())
    assert off(fast(x), net.double()(x.double())) < CLOSE


@needs_library
def test_spectral_convolutions_are_replaced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(winograd, "conv", lambda x, *_, **__: seen.append(x.shape) or x)
    net = SpectralConv2d(16, 16, 3, padding=1)
    net(drawn(1, 16, 24, 24))
    assert not seen
    winograd.use_fast_conv(net, CPU)(drawn(1, 16, 24, 24))
    assert seen == [(1, 16, 24, 24)]


# ---- dense blocks ----------------------------------------------------------------------------------------------------


def blocks() -> tuple[ResidualDenseBlock, nn.Module]:
    torch.manual_seed(0)
    plain = ResidualDenseBlock(32, 16)
    for conv in plain.children():
        assert isinstance(conv, nn.Conv2d)
        nn.init.normal_(conv.weight, std=0.1)
        nn.init.normal_(conv.bias)  # type: ignore[arg-type]
    return plain, winograd.use_fast_conv(copy.deepcopy(plain).to(memory_format=LAST), CPU)


def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each block that is one operation."""
    seen: list[int] = []
    do = dense.block
    monkeypatch.setattr(dense, "block", lambda *given: seen.append(1) or do(*given))
    return seen


@needs_library
def test_a_dense_block_equals_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (plain, fast), seen = blocks(), taken(monkeypatch)
    x, gradient = drawn(2, 32, 22, 27), drawn(2, 32, 22, 27)

    def both(block: nn.Module, dtype: torch.dtype) -> list[Tensor]:
        given = x.to(dtype).requires_grad_()
        made = block.to(dtype)(given)
        return [made.detach(), *torch.autograd.grad(made, [given, *block.parameters()], gradient.to(dtype))]

    pairs = zip(both(fast, torch.float32), both(plain, torch.float64), strict=True)
    assert [off(*pair) < CLOSE for pair in pairs] == [True] * 12
    assert seen == [1]


@needs_library
def test_a_dense_block_keeps_each_feature_once() -> None:
    _, fast = blocks()
    x = drawn(1, 32, 24, 24).contiguous(memory_format=LAST).requires_grad_()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        fast(x)
    features = (32 + 4 * 16) * 24 * 24
    assert sorted(kept)[-1] == features
    assert sum(kept) == features + sum(p.numel() for p in fast.parameters() if p.ndim == 4)


@needs_library
@pytest.mark.parametrize("listen", ["register_forward_hook", "register_forward_pre_hook"])
def test_who_listens_to_a_convolution_hears_it(listen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, fast), seen, heard = blocks(), taken(monkeypatch), []
    getattr(fast.conv3, listen)(lambda *given: heard.append(given[0]))
    fast(drawn(1, 32, 24, 24))
    assert (seen, heard) == ([], [fast.conv3])


@needs_library
def test_a_weight_changed_before_its_backward_pass_is_an_error() -> None:
    _, fast = blocks()
    made = fast(drawn(1, 32, 24, 24)).sum()
    with torch.no_grad():
        fast.conv2.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        made.backward()


@needs_library
def test_gradients_of_a_blocks_gradients_are_refused() -> None:
    _, fast = blocks()
    x = drawn(1, 32, 24, 24).requires_grad_()
    slope = torch.autograd.grad(fast(x).square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
