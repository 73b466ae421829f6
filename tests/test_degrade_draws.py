"""Draws depend on (seed, position) only and follow the distributions of the recipe."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from sr.degrade import STAGES, Degradation, canvas, noise
from sr.degrade.blur import KINDS, Blur, Sinc
from sr.degrade.draws import draws
from sr.degrade.kernels import BellKernel, SincKernel
from sr.degrade.noise import Noise
from sr.degrade.one_of import OneOf
from sr.degrade.resize import Downscale, Resize
from sr.degrade.tones import Dither, Halo

MODES = "bicubic", "area", "bilinear", "bicubic_plain", "nearest", "lanczos"
COUNT = 2000


def samples(count=COUNT, lq_size=(20, 24)):
    return draws(0, 0, range(count), lq_size=lq_size, device=torch.device("cpu"))


def near(count, prob):
    """Within 4 standard deviations of COUNT draws."""
    return abs(count - COUNT * prob) < 4 * math.sqrt(COUNT * prob * (1 - prob)) + 1e-9


def second_order():
    """A short list with every stage."""
    final = [[STAGES["downscale"](), Sinc()], [STAGES["jpeg"](), STAGES["downscale"](mode="bicubic"), Sinc()]]
    return [STAGES["sharpen"](), Blur(prob=0.8), Resize(), Noise(), STAGES["jpeg"](), OneOf(choices=final)]


@pytest.fixture
def gt():
    return torch.rand(4, 3, 72, 80, generator=torch.Generator().manual_seed(1))


def test_a_sample_does_not_depend_on_its_batch(gt):
    degradation = Degradation(second_order(), scale=4, gt_size=48, seed=5)
    positions = [7, 8, 10**12, 3]
    together = degradation(gt, positions)
    backwards = degradation(gt.flip(0), positions[::-1])
    for row, position in enumerate(positions):
        alone = degradation(gt[row : row + 1], [position])
        for name in ("lq", "gt", "target"):
            assert getattr(alone, name)[0].equal(getattr(together, name)[row])
            assert getattr(backwards, name)[3 - row].equal(getattr(together, name)[row])


def test_padded_batches_match_single_images(gt, monkeypatch):
    """Uses the padded batches of a GPU. Values at a rounding boundary may round either way."""
    sizes = [(72, 80), (56, 80), (72, 80), (30, 41)]
    images = [image[:, :height, :width].contiguous() for image, (height, width) in zip(gt, sizes, strict=True)]
    for stages in ([stage] for stage in second_order()):
        alone = Degradation([*stages, Downscale()], scale=4, gt_size=None, seed=5)
        with monkeypatch.context() as patch:
            patch.setattr(noise, "_counts", _poisson)
            apart = alone._degrade(images, samples(4))
            patch.setattr(canvas, "is_accelerator", lambda device: True)
            for one, many in zip(apart, alone._degrade(images, samples(4)), strict=True):
                error = (one - many).abs()
                assert error.median() < 1e-6
                assert (error > 1e-5).float().mean() < 0.02


def _poisson(levels, photons, draw):
    """Draw counts as on a GPU."""
    return torch.poisson(levels * (photons / 255), generator=draw.field())


def test_a_batch_on_a_gpu_is_as_on_a_cpu(monkeypatch):
    """Every stage, and batches in parts of two. A JPEG coefficient at a rounding boundary may round either way."""
    degradation = Degradation(second_order(), scale=4, gt_size=48, seed=5)
    gt = torch.rand(5, 3, 96, 80, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(noise, "_counts", _poisson)
    alone = degradation(gt, range(5))
    monkeypatch.setattr(canvas, "is_accelerator", lambda device: True)
    for size in (64, 2):
        monkeypatch.setattr(canvas, "BATCH_SIZE", size)
        together = degradation(gt, range(5))
        for name in ("lq", "gt", "target"):
            error = (getattr(together, name) - getattr(alone, name)).abs()
            assert error.max() < 0.1
            assert (error > 1e-5).float().mean() < 0.01


@pytest.mark.parametrize("stage", [Downscale(mode=mode) for mode in MODES] + [Dither(prob=1), Halo(prob=1)])
def test_images_of_different_sizes_share_kernels(gt, stage, monkeypatch):
    images = [gt[0], gt[1, :, :50, :37].contiguous(), gt[2, :, :33], gt[3, :, :, :20]]
    apart = stage(images, samples(4))
    monkeypatch.setattr(canvas, "is_accelerator", lambda device: True)
    for one, many in zip(apart, stage(images, samples(4)), strict=True):
        assert (one - many).abs().median() < 1e-6
        assert ((one - many).abs() > 1e-4).float().mean() < 0.02


def test_equal_stages_of_choices_run_together(gt, monkeypatch):
    """`one_of` with [downscale, sinc] and [jpeg, downscale, sinc]: the samples are those of separate calls."""
    calls = []
    for kind in (Sinc, STAGES["jpeg"], Downscale):
        apply = kind.apply
        monkeypatch.setattr(kind, "apply", lambda self, i, d, apply=apply: calls.append(len(i)) or apply(self, i, d))
    stage = OneOf(choices=[[Downscale(), Sinc(prob=1)], [STAGES["jpeg"](), Downscale(), Sinc(prob=1)]])
    together = stage(list(gt), samples(4))
    assert len(calls) == 3
    assert calls.count(4) == 2
    for row, image in enumerate(gt):
        assert stage([image], samples(4)[row : row + 1])[0].equal(together[row])


def test_pick_matches_numpy_choice():
    [draw], rng = samples(1), np.random.default_rng([0, 0, 0])
    shares = list(KINDS.values())
    for _ in range(500):
        assert draw.pick(range(6), shares) == rng.choice(6, p=np.array(shares) / sum(shares))
        assert draw.pick(range(8)) == rng.choice(8)
        assert draw.uniform((0.2, 3.0)) == rng.uniform(0.2, 3.0)


def test_samples_depend_on_position_and_seed(gt):
    first = Degradation(second_order(), scale=4, gt_size=48, seed=5)(gt[:1], [1])
    assert not first.lq.equal(Degradation(second_order(), scale=4, gt_size=48, seed=5)(gt[:1], [2]).lq)
    assert not first.lq.equal(Degradation(second_order(), scale=4, gt_size=48, seed=6)(gt[:1], [1]).lq)


def test_the_stages_do_not_move_the_crops(gt):
    rich = Degradation(second_order(), scale=4, gt_size=48, seed=5)(gt, range(4))
    plain = Degradation([Downscale()], scale=4, gt_size=48, seed=5)(gt, range(4))
    assert rich.gt.equal(plain.gt)


def test_kernels_follow_the_distribution_of_the_recipe():
    blur = Blur()
    shapes = [blur.shape(draw) for draw in samples()]
    bells, rings = ([shape for shape in shapes if isinstance(shape, kind)] for kind in (BellKernel, SincKernel))

    assert near(len(rings), 0.1)
    assert all(math.pi / (3 if size < 13 else 5) <= cutoff <= math.pi for size, cutoff in rings)
    assert min(cutoff for size, cutoff in rings if size >= 13) < math.pi / 3
    sizes = Counter(shape.size for shape in shapes)
    assert sorted(sizes) == list(range(7, 22, 2))
    assert all(near(count, 1 / 8) for count in sizes.values())
    turned = [bell for bell in bells if bell.rotation]
    assert near(len(turned), 0.9 * sum(share for kind, share in KINDS.items() if kind.endswith("aniso")))
    assert all(bell.sigma_x == bell.sigma_y for bell in bells if not bell.rotation)
    assert near(sum(bell.plateau for bell in bells), 0.9 * 0.15)
    assert near(sum(not bell.plateau and bell.beta != 1 for bell in bells), 0.9 * 0.15)
    assert near(sum(not bell.plateau and bell.beta > 1 for bell in bells), 0.9 * 0.075)
    assert near(sum(bell.plateau and bell.beta > 1 for bell in bells), 0.9 * 0.075)
    assert np.mean([bell.sigma_x for bell in bells]) == pytest.approx(1.6, abs=0.1)


def test_resize_factors_follow_the_distribution_of_the_recipe():
    resize = Resize(up_prob=0.3, down_prob=0.4, range=(0.3, 1.2))
    factors = np.array([resize._factor(draw) for draw in samples()])
    assert near((factors > 1).sum(), 0.3)
    assert near((factors < 1).sum(), 0.4)
    assert factors.min() == pytest.approx(0.3, abs=0.01)
    assert factors.max() == pytest.approx(1.2, abs=0.01)


def test_resize_is_relative_to_the_named_size():
    image, draw = torch.rand(3, 33, 50), samples(1)
    keep = {"up_prob": 0.0, "down_prob": 0.0}
    assert Resize(**keep)([image], draw)[0].equal(image)
    assert Resize(**keep, relative_to="lq")([image], draw)[0].shape == (3, 20, 24)
    [shrunk] = Resize(up_prob=0.0, down_prob=1.0, range=(0.5, 1.0))([image], draw)
    assert 16 <= shrunk.shape[1] < 33


def test_noise_follows_the_distribution_of_the_recipe():
    image = torch.full((3, 24, 24), 0.5)
    noise = Noise(gaussian_prob=1.0, sigma=(10.0, 10.0))
    fields = [(noisy - image) * 255 for noisy in noise([image] * COUNT, samples())]
    gray = [field for field in fields if field[0].equal(field[1])]
    assert near(len(gray), 0.4)
    assert torch.stack(fields).std() == pytest.approx(10, rel=0.01)


def test_one_of_chooses_uniformly():
    marks = [[lambda images, draws, value=value: [image + value for image in images]] for value in (1.0, 2.0, 3.0)]
    fork = OneOf(choices=marks)
    picked = Counter(int(out) for out in fork([torch.zeros(())] * COUNT, samples()))
    assert sorted(picked) == [1.0, 2.0, 3.0]
    assert all(near(count, 1 / 3) for count in picked.values())


def test_prob_is_the_probability_of_the_stage():
    image = torch.rand(3, 24, 24)
    blurred = Sinc(prob=0.25)([image] * COUNT, samples())
    assert near(sum(out is not image for out in blurred), 0.25)
