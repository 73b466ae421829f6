import pytest
import torch
from skimage import data
from torch.utils._python_dispatch import TorchDispatchMode

from sr.config.registry import Table, check, make
from sr.core.errors import UserError
from sr.degrade import STAGES, Degradation, canvas
from sr.degrade.resize import Downscale, Resize
from sr.degrade.sharpen import Sharpen

TABLES = {"degrade": Table(STAGES)}
FINAL = [
    [{"type": "downscale"}, {"type": "sinc"}, {"type": "jpeg"}],
    [{"type": "jpeg"}, {"type": "downscale"}, {"type": "sinc"}],
]
SECOND_ORDER = [
    {"type": "sharpen"},
    {"type": "blur"},
    {"type": "resize"},
    {"type": "noise"},
    {"type": "jpeg"},
    {"type": "blur", "prob": 0.8, "sigma": [0.2, 1.5]},
    {"type": "resize", "relative_to": "lq", "range": [0.3, 1.2], "up_prob": 0.3, "down_prob": 0.4},
    {"type": "noise", "sigma": [1, 25], "poisson_scale": [0.05, 2.5]},
    {"type": "one_of", "choices": FINAL},
]


def built(parts, **kwargs):
    stages = [make(part, "degrade", TABLES) for part in parts]
    return Degradation(stages, **({"scale": 4, "gt_size": 32, "seed": 0} | kwargs))


@pytest.fixture
def gt():
    return torch.rand(2, 3, 64, 72, generator=torch.Generator().manual_seed(1))


def test_stages_from_options_make_pairs(gt):
    assert [problem for part in SECOND_ORDER for problem in check(part, "degrade", TABLES)] == []
    pair = built(SECOND_ORDER)(gt, [0, 1])
    assert pair.lq.shape == (2, 3, 8, 8)
    assert pair.gt.shape == pair.target.shape == (2, 3, 32, 32)
    levels = pair.lq * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert pair.lq.min() >= 0
    assert pair.lq.max() <= 1


@pytest.mark.parametrize("mode", ["bicubic", "area", "bilinear", "bicubic_plain"])
def test_crops_of_gt_and_lq_are_aligned(mode):
    ramp = torch.linspace(0, 1, 64)[None, None, :, None].expand(1, 3, 64, 64) * 0.5
    ramp = ramp + torch.linspace(0, 1, 64) * 0.4
    pair = built([{"type": "downscale", "mode": mode}])(ramp, [3])
    torch.testing.assert_close(pair.lq, torch.nn.functional.avg_pool2d(pair.gt, 4), atol=0.02, rtol=0)


def test_sharpening_changes_lq_and_target_but_not_gt(gt):
    plain = built([{"type": "downscale", "mode": "area"}])(gt, [0, 1])
    sharp = built([{"type": "sharpen"}, {"type": "downscale", "mode": "area"}])(gt, [0, 1])
    assert plain.target is plain.gt
    assert sharp.gt.equal(plain.gt)
    assert not sharp.lq.equal(plain.lq)
    assert sharp.target[1].equal(Sharpen().sharpen([plain.gt[1]])[0])
    untargeted = built([{"type": "sharpen", "target": False}, {"type": "downscale", "mode": "area"}])(gt, [0, 1])
    assert untargeted.lq.equal(sharp.lq)
    assert untargeted.target is untargeted.gt


def test_cropping_first_changes_nothing_beyond_the_halo():
    """The kernels extend 25 + 25 (sharpening) + 10 pixels: further inside, a crop gives the same as the whole image.

    (A level at a rounding border may fall on either side.)
    """
    parts = [{"type": "sharpen"}, {"type": "blur", "sigma": [1.5, 3]}, {"type": "downscale", "mode": "area"}]
    image = torch.from_numpy(data.astronaut()[:300, 100:412].copy()).permute(2, 0, 1)[None] / 255
    degradation = built(parts, gt_size=None)
    for position in range(4):
        whole = degradation(image, [position]).lq
        window = degradation(image[..., 40:280, 60:300], [position]).lq
        inside = (whole[..., 25:55, 30:60] - window[..., 15:45, 15:45]).abs() * 255
        assert inside.max() < 1.01
        assert (inside > 0.5).float().mean() < 0.005
        assert (whole[..., 10:70, 15:75] - window).abs().max() > 1 / 255  # effect of the reflected border


def test_without_gt_size_the_whole_image_is_kept():
    pair = built(SECOND_ORDER, gt_size=None)(torch.rand(1, 3, 45, 63), [0])
    assert pair.gt.shape == (1, 3, 44, 60)
    assert pair.lq.shape == (1, 3, 11, 15)


def test_tiny_images():
    for position in range(8):
        assert built(SECOND_ORDER, gt_size=None)(torch.rand(1, 3, 9, 8), [position]).lq.shape == (1, 3, 2, 2)


@pytest.mark.parametrize("ending", [[], [Resize()], [Downscale(), Resize(relative_to="lq")]])
def test_a_list_that_ends_at_a_random_size_is_refused(ending):
    with pytest.raises(UserError, match="do not end at the LR size; add"):
        Degradation([Sharpen(), *ending], scale=4, gt_size=32, seed=0)


def test_stages_that_keep_the_size_are_enough_at_scale_1():
    assert Degradation([Sharpen()], scale=1, gt_size=32, seed=0)
    with pytest.raises(UserError, match="do not end at the LR size; add"):
        Degradation([Resize()], scale=1, gt_size=32, seed=0)


def test_every_choice_of_one_of_must_end_at_the_lq_size():
    fork = {"type": "one_of", "choices": [[{"type": "downscale"}], [{"type": "jpeg"}]]}
    with pytest.raises(UserError, match="do not end at the LR size; add"):
        built([fork])
    assert built([{"type": "downscale"}, fork])


def test_without_stages_the_data_needs_lq(gt):
    with pytest.raises(UserError, match="has no lq images"):
        built([])(gt, [0, 1])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "blur", "sigma": [3, 0.2]}, "lower bound first"),
        ({"type": "blur", "sigma": [0, 3]}, "greater than 0"),
        ({"type": "blur", "sizes": [7, 20]}, "odd"),
        ({"type": "blur", "kinds": {"isotropic": 1}}, "'iso'"),
        ({"type": "blur", "kinds": {"iso": 0}}, "above 0"),
        ({"type": "resize", "range": [0.2, 0.9]}, "from 1 on"),
        ({"type": "resize", "modes": []}, "at least 1"),
        ({"type": "jpeg", "quality": [30, 100]}, "less than or equal to 99"),
        ({"type": "noise", "gray_prob": 1.5}, "less than or equal to 1"),
        ({"type": "one_of", "choices": [[{"type": "sincc"}]]}, "Did you mean 'sinc'"),
    ],
)
def test_wrong_values_are_named(part, message):
    problems = check(part, "degrade", TABLES)
    assert len(problems) == 1
    assert message in problems[0].message


def test_up_and_down_cannot_exceed_one():
    with pytest.raises(UserError, match="lower one of them"):
        Resize(up_prob=0.6, down_prob=0.6)


def test_autocast_and_matmul_precision_have_no_effect(gt):
    def no_autocast(images, draws):
        assert not torch.is_autocast_enabled("cpu")
        return images

    degradation = built(SECOND_ORDER)
    degradation.stages.append(no_autocast)
    expected = degradation(gt, [0, 1]).lq
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            got = degradation(gt, [0, 1]).lq
    finally:
        torch.set_float32_matmul_precision(before)
    assert got.equal(expected)
    assert not got.requires_grad


class _NoQuestions(TorchDispatchMode):
    """Fails on every operator that synchronizes host and device."""

    synchronizing = ("_local_scalar_dense", "nonzero", "unique", "bincount", "is_nonzero", "equal", "masked_select")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(name in str(func).split(".")[1] for name in self.synchronizing), func
        return func(*args, **(kwargs or {}))


def test_no_stage_synchronizes_with_the_device(gt, monkeypatch):
    monkeypatch.setattr(canvas, "is_accelerator", lambda device: True)  # use the accelerator path
    degradation = built(SECOND_ORDER)
    degradation(gt, [0, 1])  # tables are made once
    with _NoQuestions():
        for position in range(6):
            degradation(gt, [position, position + 100])
