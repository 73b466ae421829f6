"""Small tars, images and sources whose pixels identify their samples."""

import io
import tarfile

import numpy as np
import torch

from sr.data.mix import Mix
from sr.data.source import Sample
from sr.images import ImageError, encode_rgb, write_rgb


def image(number, size=8):
    return np.full((size, size, 3), number, np.uint8)


def png(number, size=8):
    return encode_rgb(image(number, size), "png")


def make_tar(path, members, **options):
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shown(source):
    return [int(source.read(s, i).gt[0, 0, 0]) for s, count in enumerate(source.counts) for i in range(count)]


def write_rgb_in(path, number):
    path.parent.mkdir(exist_ok=True)
    write_rgb(path, image(number))


SETTINGS = {"seed": 1, "scale": 4, "gt_size": 16, "degrade_size": 20, "flip": True, "rotate": True}


class Noise:
    """A source whose pixels identify their position; the samples in `bad` are unreadable."""

    def __init__(self, counts, *, paired=False, bad=(), side=(40, 52)):
        self.counts, self.paired, self.bad, self.side = counts, paired, set(bad), side

    def read(self, shard, index):
        if (shard, index) in self.bad:
            raise ImageError(self.name(shard, index), "torn")
        lq = np.random.default_rng([shard, index]).integers(0, 256, (self.side[0] // 4, self.side[1] // 4, 3), np.uint8)
        gt = lq.repeat(4, 0).repeat(4, 1)
        return Sample(gt, lq if self.paired else None)

    def name(self, shard, index):
        return f"{shard}.tar: {index}"


def sources():
    return Mix(sources=[Noise([7, 5]), Noise([9], paired=True)], weights=[2.0, 1.0])


def flat(raw):
    """{position: (gt, lq)} of a micro-batch."""
    rows = {}
    for group in raw.groups:
        for number, position in enumerate(group.positions):
            rows[position] = (group.gt[number], None if group.lq is None else group.lq[number])
    return rows


def same(a, b):
    return all(x is y is None or torch.equal(x, y) for x, y in zip(a, b, strict=True))
