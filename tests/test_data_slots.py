"""A worker's memory is used again, and nobody sees anything but his own batch."""

import time
from itertools import islice

import pytest
import torch

from sr.data import crops, slots
from sr.data.loader import Loader
from sr.data.slots import SLOTS, Received, Slots
from tests.helpers.data import SETTINGS, flat, same, sources

NUMBER = 5 * SLOTS


def stream(workers: int) -> Loader:
    return Loader(sources(), batch_size=4, workers=workers, **SETTINGS)


@pytest.fixture(scope="module")
def wanted():
    return [flat(raw) for raw in islice(stream(0).batches(), NUMBER)]


def equal(got, wanted):
    return got.keys() == wanted.keys() and all(same(got[position], wanted[position]) for position in wanted)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("wait", [0, 0.02], ids=["a fast trainer", "a slow trainer"])
def test_batches_that_are_kept_stay_as_they_were(wanted, workers, wait):
    batches, kept = stream(workers).batches(), []
    for raw in islice(batches, NUMBER):
        kept.append(raw)
        time.sleep(wait)
    assert all(equal(flat(raw), right) for raw, right in zip(kept, wanted, strict=True))


@pytest.mark.parametrize("wait", [0, 0.05])
def test_a_slot_is_whole_when_it_comes_and_until_the_next_is_asked_for(wanted, wait, monkeypatch):
    """So it is time enough to copy it then, as `Received` and the thread that pins memory do."""
    monkeypatch.setattr(Received, "copy", lambda self, batch: batch)
    for raw, right in zip(stream(1).batches(), wanted, strict=False):
        time.sleep(wait)  # in which the worker makes all that it may
        assert equal(flat(raw), right)


def test_with_too_few_slots_it_would_not_be(wanted, monkeypatch):
    monkeypatch.setattr(Received, "copy", lambda self, batch: batch)
    monkeypatch.setattr(crops, "Slots", lambda: few)
    few = Slots()
    few._slots = few._slots[:2]
    monkeypatch.setattr(slots, "SLOTS", 2)
    whole = []
    for raw, right in zip(stream(1).batches(), wanted, strict=False):
        time.sleep(0.05)
        whole.append(equal(flat(raw), right))
    assert not all(whole)


def test_slots_take_turns_and_grow():
    mine = Slots()
    first = [mine.take(10).data_ptr() for _ in range(SLOTS)]
    assert len(set(first)) == SLOTS
    assert [mine.take(8).data_ptr() for _ in range(SLOTS)] == first
    assert len(mine.take(1000)) == 1000
    assert mine.take(10).data_ptr() == first[1]


def test_a_copy_keeps_its_layout():
    batch = torch.randint(0, 256, (2, 8, 9, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    copied = Received().copy(batch)
    assert torch.equal(copied, batch)
    assert (copied.stride(), copied.data_ptr() == batch.data_ptr()) == (batch.stride(), False)
