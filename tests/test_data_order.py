import time
from collections import Counter

import numpy as np
import pytest

from sr.core.errors import UserError
from sr.data.mix import Mix, Route, parts_of, pattern
from sr.data.sampling_order import SamplingOrder


class Source:
    def __init__(self, *counts):
        self.counts = list(counts)


@pytest.mark.parametrize("counts", [[1], [5], [3, 0, 5, 1], [2] * 40, [0, 0, 4], [7, 9, 2, 4, 1, 8]])
@pytest.mark.parametrize("window", [1, 3, 16])
def test_every_sample_once_an_epoch(counts, window):
    order = SamplingOrder(counts, seed=3, window=window)
    every = {(shard, index) for shard, count in enumerate(counts) for index in range(count)}
    for epoch in range(3):
        places = [order(epoch * sum(counts) + offset) for offset in range(sum(counts))]
        assert {place.epoch for place in places} == {epoch}
        assert {(place.shard, place.sample) for place in places} == every


def test_it_is_a_function_of_seed_part_and_position_alone():
    counts = [7, 9, 2, 4, 1, 8]
    walked = [SamplingOrder(counts, seed=3, window=2)(p) for p in range(100)]
    order = SamplingOrder(counts, seed=3, window=2)
    assert [order(p) for p in np.random.default_rng(0).permutation(100)] == [
        walked[p] for p in np.random.default_rng(0).permutation(100)
    ]
    assert walked != [SamplingOrder(counts, seed=4, window=2)(p) for p in range(100)]
    assert walked != [SamplingOrder(counts, seed=3, part=1, window=2)(p) for p in range(100)]
    first, second = walked[:31], walked[31:62]
    assert [place[1:] for place in first] != [place[1:] for place in second]


def test_only_a_window_of_shards_is_read_from_at_a_time():
    order = SamplingOrder([10] * 64, seed=0, window=4)
    for start in range(0, 640, 40):
        assert len({order(start + offset).shard for offset in range(40)}) == 4


def test_seeking_into_500_million_samples_is_immediate():
    started = time.process_time()
    order = SamplingOrder([10_000] * 50_000, seed=1)
    order(400_000_000)
    seek = time.process_time() - started
    started = time.process_time()
    for offset in range(1000):
        order(400_000_001 + offset)
    assert seek < 1
    assert (time.process_time() - started) / 1000 < 1e-3


SHARES = [[1.0], [0.5, 0.5], [0.7, 0.2, 0.1], [1 / 3, 2 / 3], [0.999, 0.001], [0.123456, 1.0]]


@pytest.mark.parametrize("shares", SHARES)
def test_a_pattern_keeps_the_proportions_in_every_stretch(shares):
    turns = pattern(shares)
    for part, share in enumerate(np.array(shares) / sum(shares)):
        assert abs((turns == part).mean() - share) <= 1e-3
        seen = np.cumsum(np.tile(turns, 2) == part)
        assert np.abs(seen - share * np.arange(1, len(seen) + 1)).max() <= 2.5


def test_a_mix_gives_each_source_its_share_in_its_own_order():
    parts = parts_of(Mix(sources=[Source(5, 6), Source(40)], weights=[3.0, 1.0]))
    route = Route(parts, seed=9)
    addresses = [route(p) for p in range(400)]
    assert Counter(address.part for address in addresses) == {0: 300, 1: 100}
    for part, (source, _) in enumerate(parts):
        order = SamplingOrder(source.counts, seed=9, part=part)
        own = [(address.shard, address.sample) for address in addresses if address.part == part]
        assert own == [order(p)[1:] for p in range(len(own))]
    assert route(217) == addresses[217] == Route(parts, seed=9)(217)


def test_a_mix_in_a_mix_is_one_mix():
    one, two, three = Source(1), Source(2), Source(3)
    inner = Mix(sources=[one, two], weights=[1.0, 3.0])
    assert parts_of(Mix(sources=[inner, three], weights=[1.0, 1.0])) == [(one, 0.125), (two, 0.375), (three, 0.5)]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0]])
def test_weights_must_fit(weights):
    with pytest.raises(UserError, match="weight"):
        Mix(sources=[Source(1), Source(1)], weights=weights)
