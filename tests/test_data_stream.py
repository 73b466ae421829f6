"""Crops and batches are the same for any number of ranks, workers and restarts."""

import itertools
import multiprocessing
import os
import signal
import time
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, get_worker_info

from sr.core.errors import UserError
from sr.data.crops import Crops
from sr.data.loader import Loader
from sr.data.source import Sample
from tests.helpers.data import SETTINGS, Noise, flat, same, sources


@pytest.fixture(scope="module")
def reference():
    """What every position must give: batch after batch of one process without workers."""
    rows = {}
    for raw in islice(Loader(sources(), batch_size=8, **SETTINGS).batches(), 8):
        rows |= flat(raw)
    assert sorted(rows) == list(range(64))
    return rows


@pytest.mark.parametrize(("world", "accumulate", "workers"), [(1, 1, 2), (2, 1, 0), (2, 2, 2), (4, 2, 0), (1, 8, 0)])
def test_the_global_batches_are_the_same(reference, world, accumulate, workers):
    for rank in range(world):
        stream = Loader(
            sources(), batch_size=8, world=world, rank=rank, accumulate=accumulate, workers=workers, **SETTINGS
        )
        size = 8 // world // accumulate
        for k, raw in enumerate(islice(stream.batches(), 3 * accumulate)):
            rows, first = flat(raw), (k * world + rank) * size
            assert sorted(rows) == list(range(first, first + size))
            assert all(same(rows[position], reference[position]) for position in rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_it_starts_anywhere(reference, workers):
    raw = next(Loader(sources(), batch_size=4, workers=workers, **SETTINGS).batches(consumed=40))
    assert sorted(flat(raw)) == [40, 41, 42, 43]
    assert all(same(row, reference[position]) for position, row in flat(raw).items())


def test_it_draws_nothing_from_the_global_generators():
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(islice(Loader(sources(), batch_size=8, workers=1, **SETTINGS).batches(), 2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_groups_hold_their_rows_shapes_and_kinds():
    raw = next(Loader(sources(), batch_size=8, **SETTINGS).batches())
    plain, paired = sorted(raw.groups, key=lambda group: group.lq is not None)
    assert sorted(plain.rows + paired.rows) == list(range(8))
    assert plain.rows == plain.positions
    assert plain.gt.shape == (len(plain.rows), 3, 20, 20)
    assert plain.gt.dtype == torch.uint8
    assert plain.lq is None
    assert paired.gt.shape == (len(paired.rows), 3, 16, 16)
    assert paired.lq.shape == (len(paired.rows), 3, 4, 4)


class Planes(Noise):
    """Decoded to planes, as JPEG members are."""

    def read(self, shard, index):
        image = super().read(shard, index).gt
        return Sample(np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_keeps_the_layout_that_it_was_decoded_to(workers):
    loaded = {}
    for kind in (Noise, Planes):  # the same images
        batches = Loader(kind([9]), batch_size=8, workers=workers, **SETTINGS).batches()
        loaded[kind] = next(batches).groups[0].gt
        batches.close()
    assert loaded[Noise].is_contiguous(memory_format=torch.channels_last)
    assert loaded[Planes].is_contiguous()
    assert loaded[Noise].equal(loaded[Planes])


@pytest.mark.parametrize("side", [(40, 52), (8, 52), (12, 4), (16, 16)])
def test_pairs_stay_aligned_through_crop_flip_turn_and_padding(side):
    crops = Crops(Noise([5], paired=True, side=side), **SETTINGS)
    for position in range(30):
        gt, lq, bad = crops.crop(position)
        assert gt.shape == (3, 16, 16)
        assert not bad
        assert torch.equal(gt, lq.repeat_interleave(4, 1).repeat_interleave(4, 2))


def test_an_image_smaller_than_the_crop_is_mirrored_without_its_edge():
    source = Noise([1], side=(8, 52))
    crops = Crops(source, **SETTINGS | {"flip": False, "rotate": False})
    image = source.read(0, 0).gt
    for position in range(5):
        crop = crops.crop(position).gt.numpy().transpose(1, 2, 0)
        columns = [left for left in range(33) if np.array_equal(image[:, left : left + 20], crop[:8])]
        assert columns
        assert np.array_equal(crop[8:15], crop[:7][::-1])


def test_crops_cover_the_image_and_options_do_not_move_them():
    source = Noise([1], paired=True, side=(24, 28))
    plain = Crops(source, **SETTINGS | {"flip": False, "rotate": False})
    flipped = Crops(source, **SETTINGS | {"flip": True, "rotate": False})
    turned = Crops(source, **SETTINGS)
    seen, ways = set(), set()
    for position in range(300):
        a, b, c = (crops.crop(position).lq for crops in (plain, flipped, turned))
        seen.add(a.numpy().tobytes())
        assert torch.equal(a, b) or torch.equal(a, b.flip(2))
        eight = [x.flip(dims) for x in (a, a.transpose(1, 2)) for dims in ((), (1,), (2,), (1, 2))]
        ways |= {number for number, way in enumerate(eight) if torch.equal(way, c)}
    assert len(seen) == (6 - 4 + 1) * (7 - 4 + 1)
    assert ways == set(range(8))


def test_a_bad_sample_gives_way_to_its_next_neighbour_and_is_reported():
    source, whole = Noise([3, 0, 2], bad=[(0, 2), (2, 0)]), Noise([3, 0, 2])
    crops, clean = Crops(source, **SETTINGS), Crops(whole, **SETTINGS)
    reports = [line for position in range(5) for line in crops.crop(position).bad]
    assert sorted(reports) == [
        "0.tar: 2: torn (replaced by 2.tar: 1)",
        "2.tar: 0: torn (replaced by 2.tar: 1)",
        "2.tar: 0: torn (replaced by 2.tar: 1)",
    ]
    unharmed = [position for position in range(5) if not crops.crop(position).bad]
    assert len(unharmed) == 3
    assert all(same(crops.crop(p)[:2], clean.crop(p)[:2]) for p in unharmed)
    batches = Loader(source, batch_size=5, workers=1, **SETTINGS).batches()
    assert sorted(next(batches).bad) == sorted(reports)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_bad_samples_ends_the_run_with_one_sentence(workers):
    source = Noise([40], bad=[(0, index) for index in range(40)])
    with pytest.raises(UserError, match=r"^none of 16 samples from 0.tar: \d+ \(torn\) to .* can be read; replace"):
        next(Loader(source, batch_size=2, workers=workers, **SETTINGS).batches())


def test_pairs_of_another_scale_are_bad_and_remainders_are_not():
    class Odd(Noise):
        def read(self, shard, index):
            gt, lq = super().read(shard, index)
            return Sample(np.pad(gt, ((0, self.extra), (0, 0), (0, 0))), lq)

    odd = Odd([3], paired=True)
    odd.extra = 3
    assert Crops(odd, **SETTINGS).crop(0).bad == []
    odd.extra = 4
    with pytest.raises(UserError, match="lq is 13x10 and gt 52x44, not 4 times it"):
        Crops(odd, **SETTINGS).crop(0)


@pytest.mark.parametrize(
    ("batch_size", "world", "accumulate", "hint"),
    [(10, 4, 1, "8 or 12"), (3, 2, 2, "set it to 4,"), (0, 1, 1, "set it to 1,")],
)
def test_a_batch_that_does_not_divide_names_those_that_do(batch_size, world, accumulate, hint):
    with pytest.raises(UserError, match=hint):
        Loader(sources(), batch_size=batch_size, world=world, accumulate=accumulate, **SETTINGS)


def test_a_source_without_images_is_refused():
    with pytest.raises(UserError, match="holds no images"):
        Loader(Noise([0]), batch_size=1, **SETTINGS)


def test_workers_outlive_the_signals_that_ask_the_trainer_to_save():
    before = set(multiprocessing.active_children())
    batches = Loader(Noise([9]), batch_size=2, workers=2, **SETTINGS).batches()
    next(batches), next(batches)  # one of each, so that both have started
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    for worker, number in itertools.product(workers, (signal.SIGINT, signal.SIGTERM)):
        os.kill(worker.pid, number)
    for _ in range(30):
        next(batches)
    del batches
    deadline = time.monotonic() + 10
    while any(worker.is_alive() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(worker.is_alive() for worker in workers)


class Deadly(Noise):
    def read(self, shard, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_named():
    with pytest.raises(UserError, match=r"worker \(pid.*memory"):
        next(Loader(Deadly([3]), batch_size=1, workers=1, **SETTINGS).batches())


def test_batches_that_are_kept_stay_as_they_were():
    def stream(workers):
        return islice(Loader(sources(), batch_size=4, workers=workers, **SETTINGS).batches(), 20)

    kept = list(stream(1))
    for raw, right in zip(kept, stream(0), strict=True):
        got, wanted = flat(raw), flat(right)
        assert got.keys() == wanted.keys()
        assert all(same(got[position], wanted[position]) for position in wanted)


class Stuck(Noise):
    """A source that fails in the first worker and does not answer the others."""

    def read(self, shard, index):
        if get_worker_info().id:
            time.sleep(60)
        raise UserError("lost")


def test_a_process_that_starts_meanwhile_outlives_the_workers(monkeypatch):
    other, start = multiprocessing.Process(target=time.sleep, args=(60,)), DataLoader.__iter__
    monkeypatch.setattr(DataLoader, "__iter__", lambda loader: (other.start(), start(loader))[1])
    batches = Loader(Noise([8]), batch_size=2, workers=1, **SETTINGS).batches()
    next(batches)
    batches.close()
    assert other.is_alive()
    assert multiprocessing.active_children() == [other]
    other.kill()
    other.join()


def test_no_worker_outlives_the_error_of_another(monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)  # it is waited for as long
    before = multiprocessing.active_children()
    with pytest.raises(UserError, match="lost"):
        next(Loader(Stuck([8]), batch_size=2, workers=2, **SETTINGS).batches())
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() != before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
