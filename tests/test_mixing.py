"""Mixing augmentations: what they do to pairs, and that they depend on (seed, position) only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sr.core.errors import UserError
from sr.data.batch import Batch, RawBatch, SubBatch
from sr.degrade import AUGMENTATIONS, Degradation
from sr.degrade.mixing import CutBlur, CutMix, Mixer, Mixup, ResizeMix
from sr.degrade.on_device import OnDeviceBatch
from sr.degrade.resize import Downscale
from sr.degrade.sharpen import Sharpen
from sr.train.builder import Builder, load
from tests.test_step import Waits

ALL = [made(prob=0.7) for made in AUGMENTATIONS.values()]


def flat_pairs(count: int = 4, scale: int = 2, side: int = 16) -> Batch:
    """Row n has the value (n + 1) / 10 in gt and lq, so that every pixel shows which row it is from."""
    values = (torch.arange(count)[:, None, None, None] + 1) / 10
    gt = values.expand(-1, 3, side * scale, side * scale).contiguous()
    return Batch(lq=gt[..., :side, :side].clone(), gt=gt, target=gt)


def mixed(step: Any, batch: Batch, positions: range = range(4)) -> Batch:
    return Mixer([step], seed=1)(batch, positions)


def enlarged(lq: Tensor) -> Tensor:
    return lq.repeat_interleave(2, -1).repeat_interleave(2, -2)


@pytest.mark.parametrize("step", [Mixup(prob=1), CutMix(prob=1), ResizeMix(prob=1)])
def test_lq_gt_and_target_are_mixed_alike(step: Any) -> None:
    plain = flat_pairs()
    pair = mixed(step, plain)
    assert pair.target is pair.gt
    torch.testing.assert_close(enlarged(pair.lq), pair.gt)
    assert all(not one.equal(other) for one, other in zip(pair.gt, plain.gt, strict=True))
    partners = plain.gt[[1, 0, 3, 2]]
    assert ((pair.gt - plain.gt) * (partners - plain.gt) >= -1e-6).all()  # between the sample and its partner
    sharpened = mixed(step, Batch(lq=plain.lq, gt=plain.gt, target=plain.gt / 2))
    torch.testing.assert_close(sharpened.target, pair.gt / 2)


def test_cutmix_pastes_one_box_of_the_given_size() -> None:
    changed = mixed(CutMix(prob=1, size=(0.25, 0.5)), flat_pairs(64), range(64)).lq - flat_pairs(64).lq
    for sample in changed[:, 0] != 0:
        height, width = sample.any(1).sum(), sample.any(0).sum()
        assert 4 <= height <= 8
        assert 4 <= width <= 8
        assert sample.sum() == height * width


def test_resizemix_pastes_the_whole_partner() -> None:
    ramp = torch.linspace(0, 1, 32).expand(2, 3, 32, 32).clone()
    ramp[0] = 0
    pair = mixed(ResizeMix(prob=1, size=(0.5, 0.5)), Batch(lq=ramp[..., ::2, ::2], gt=ramp, target=ramp), range(2))
    columns = pair.gt[0, 0].amax(0).nonzero()[:, 0]
    assert 14 <= len(columns) <= 16
    assert pair.gt[0].max() > 0.95  # from black to white, in half the width


def test_cutblur_changes_a_part_of_lq_only() -> None:
    fine = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pair = mixed(CutBlur(prob=1), Batch(lq=torch.zeros(32, 3, 16, 16), gt=fine, target=fine), range(32))
    assert pair.gt is fine
    clean = torch.nn.functional.interpolate(fine, size=(16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    pasted = pair.lq != 0
    assert pair.lq[pasted].equal(clean[pasted])
    inside = pasted[:, 0].float().mean((-2, -1))
    assert inside.min() < 0.5 < inside.max() < 1  # the box, or all around it
    corner = pasted[:, 0, 0, 0]
    assert 4 < corner.sum() < 28


def raw_batch(positions: list[int], lq: bool = False) -> RawBatch:
    def pixels(side: int) -> Tensor:
        made = [torch.randint(0, 256, (3, side, side), generator=torch.Generator().manual_seed(p)) for p in positions]
        return torch.stack(made).to(torch.uint8)

    small = pixels(8) if lq else None
    return RawBatch([SubBatch(list(range(len(positions))), positions, pixels(16), small)])


@pytest.mark.parametrize("lq", [False, True])
def test_a_mixed_sample_does_not_depend_on_the_size_of_the_micro_batch(lq: bool) -> None:
    degradation = Degradation([Sharpen(), Downscale()], scale=2, gt_size=16, seed=3)
    prepare = OnDeviceBatch(degradation, Mixer(ALL, seed=3), device=torch.device("cpu"), channels_last=True)
    whole, again = prepare(raw_batch([*range(100, 108)], lq)), prepare(raw_batch([*range(100, 108)], lq))
    halves = [prepare(raw_batch([*range(start, start + 4)], lq)) for start in (100, 104)]
    for name in ("lq", "gt", "target"):
        assert getattr(whole, name).equal(getattr(again, name))
        assert getattr(whole, name).equal(torch.cat([getattr(half, name) for half in halves]))
        assert getattr(whole, name).is_contiguous(memory_format=torch.channels_last)
    plain = OnDeviceBatch(degradation, device=torch.device("cpu"), channels_last=True)(
        raw_batch([*range(100, 108)], lq)
    )
    assert not plain.lq.equal(whole.lq)
    other = OnDeviceBatch(degradation, Mixer(ALL, seed=4), device=torch.device("cpu"), channels_last=True)
    assert not other(raw_batch([*range(100, 108)], lq)).lq.equal(whole.lq)


def test_prob_is_the_share_of_changed_samples() -> None:
    pairs = flat_pairs(2000, side=4)
    changed = (mixed(CutMix(prob=0.3), pairs, range(2000)).lq != pairs.lq).any(-1).any(-1).any(-1)
    assert 0.26 < changed.float().mean() < 0.34
    assert mixed(CutMix(prob=0), pairs, range(2000)) is pairs


def test_mixing_waits_for_nothing() -> None:
    pairs = flat_pairs()
    with Waits() as waits:
        Mixer([made(prob=1) for made in AUGMENTATIONS.values()], seed=0)(pairs, range(4))
    assert waits.seen == []


AUGMENT = [{"type": "mixup", "prob": 0.5}, {"type": "cutmix", "prob": 0.5}, {"type": "cutblur"}, {"type": "resizemix"}]


def test_a_resumed_run_mixes_alike(recipe: Callable[..., Path]) -> None:
    sizes: dict[str, Any] = {"task": "psnr", "discriminator": None, "losses": {"pixel": {"type": "l1"}}}
    sizes |= {"optimizer__discriminator": None, "train__total_steps": 2, "data__gt_size": 16, "augment": AUGMENT}
    straight = Builder(load(recipe(name="straight", **sizes))).trainer()
    straight.run()
    halted = recipe(name="halted", **sizes)
    Builder(load(halted, ["train.total_steps=1"])).trainer().run()
    rest = Builder(load(halted)).trainer()
    rest.resume()
    rest.run()
    for name, player in straight.players.items():
        mine, theirs = player.state(), rest.players[name].state()
        assert all(mine[key].equal(theirs[key]) for key in mine)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": [{"type": "cutmix"}], "data__batch_size": 3}, "even number of samples, not 3"),
        ({"augment": [{"type": "cutmix", "size": [0.7, 0.3]}]}, "lower bound first"),
        ({"augment": [{"type": "mixupp"}]}, "Did you mean 'mixup'"),
        ({"augment": [{"type": "cutblur"}], "generator__num_in_ch": 1, "degrade": []}, "for restoration only"),
    ],
)
def test_wrong_options_are_named(recipe: Callable[..., Path], changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(recipe(**changes))


def test_an_odd_number_of_samples_per_process_is_refused(recipe: Callable[..., Path]) -> None:
    build = Builder(load(recipe(augment=[{"type": "mixup"}])))
    with pytest.raises(UserError, match="gets 3 samples at a time"):
        build.mixer(3)
    assert Builder(load(recipe(augment=[{"type": "cutblur"}]))).mixer(3)
