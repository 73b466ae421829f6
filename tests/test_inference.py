"""Recovery when memory runs out, and what is kept off the device."""

import pytest
import torch
from torch import Tensor, nn

from sr.inference.predictor import Predictor
from sr.inference.receptive_field import probe
from sr.nets.io.load import Model


class Small(nn.Module):
    """A device that holds `most` pixels of input and raises `error` above."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__()
        self.most, self.error, self.largest = most, error, 0

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        if pixels > self.most:
            raise self.error
        self.largest = max(self.largest, pixels)
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
HOST = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")


@pytest.mark.parametrize("error", [CUDA, HOST, MemoryError()], ids=["cuda", "host", "python"])
@pytest.mark.parametrize("tile", [None, 0, 256])
def test_the_tile_shrinks_until_it_fits(error, tile):
    said: list[str] = []
    net = Small(100 * 100, error)
    run = Predictor(Model(net, 2, 1, "small"), tile=tile, overlap=8, say=said.append)
    image = probe(300, 3)[0, :, :, :170]
    for _ in range(2):
        (made,) = run([image])
        torch.testing.assert_close(made, image.repeat_interleave(2, 1).repeat_interleave(2, 2), atol=1e-6, rtol=0)
    shrinks = [message for message in said if message.startswith("not enough memory for a tile of")]
    assert 0 < len(shrinks) <= 3, "reported when it happened, and not again for the next image"


def test_a_batch_shrinks_before_the_tile():
    said: list[str] = []
    net = Small(3 * 40 * 40, CUDA)
    run = Predictor(Model(net, 2, 1, "small"), tile=40, overlap=8, say=said.append)
    run._together = 8 * 40 * 40  # as on a GPU
    image = probe(136, 3)[0]
    run([image, image])
    assert said[1:] == [
        "not enough memory for 8 tiles of 40x40 at once; using 4",
        "not enough memory for 4 tiles of 40x40 at once; using 2",
    ]


def test_memory_for_nothing():
    run = Predictor(Model(Small(10, CUDA), 2, 1, "small"), say=lambda sentence: None)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        run([probe(64, 3)[0]])


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), ValueError("odd")])
def test_other_errors_are_none_of_memory(error):
    said: list[str] = []
    run = Predictor(Model(Small(10, error), 2, 1, "small"), say=said.append)
    with pytest.raises(type(error), match=str(error)):
        run([probe(64, 3)[0]])
    assert not said


def test_the_net_never_sees_more_than_a_tile():
    net = Small(10**9, CUDA)
    (made,) = Predictor(Model(net, 2, 1, "small"), tile=64, overlap=8)([probe(300, 3)[0]])
    assert net.largest <= 64 * 64
    assert made.shape[-2:] == (600, 600)
