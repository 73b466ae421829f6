"""Images per second of one worker for each format, and the cores that a GPU needs.

The work of a worker for one sample: decode the image from memory, cut a crop, copy it into the batch. Images are tiled
from photographs of scikit-image. With --turbojpeg, JPEG is also decoded for the crop only: libjpeg-turbo copies the
blocks of the crop into a small JPEG (PyTurboJPEG's `crop`), which is decoded. Formats take turns in one process, and
CPU time is measured, so that other load matters little.
"""

import argparse
import io
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import NamedTuple

import numpy as np
from PIL import Image

from sr.data import codecs

SIZES = {"sub-image 480": (480, 480), "2K 2040 x 1356": (1356, 2040), "12 MP 4000 x 3000": (3000, 4000)}
CROP = 256


class Coded(NamedTuple):
    """An image in one format. decode: returns at least the crop."""

    format: str
    data: bytes
    decode: Callable[[bytes], np.ndarray]


def photo(height: int, width: int) -> np.ndarray:
    from skimage import data

    tile = np.concatenate([data.coffee()[:400, :512], data.astronaut()[:400, :512]])
    down, right = -(-height // tile.shape[0]), -(-width // tile.shape[1])
    return np.ascontiguousarray(np.tile(tile, (down, right, 1))[:height, :width])


def coded(pixels: np.ndarray, library: str) -> Iterator[Coded]:
    def ours(data: bytes) -> np.ndarray:
        return codecs.decode(data, channels=3, name="x")

    for format in ("png", "webp", "npy"):
        yield Coded(format, codecs.encode(pixels, format), ours)
    for name, options in {
        "JPEG 4:2:0": {"format": "jpeg", "quality": 90, "subsampling": 2},
        "JPEG 4:4:4": {"format": "jpeg", "quality": 90, "subsampling": 0},
        "avif": {"format": "avif", "quality": 80},
    }.items():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, **options)  # type: ignore[arg-type]
        yield Coded(name, file.getvalue(), ours)
        if library and name == "JPEG 4:2:0":
            from turbojpeg import TurboJPEG

            turbo, (top, left) = TurboJPEG(library), (side // 32 * 16 for side in pixels.shape[:2])
            top, left = min(top, pixels.shape[0] - CROP), min(left, pixels.shape[1] - CROP)
            region = partial(turbo.crop, x=left // 16 * 16, y=top // 16 * 16, w=CROP, h=CROP)
            yield Coded(f"{name}, crop only", file.getvalue(), lambda data, cut=region: ours(cut(data)))


def seconds(image: Coded, draw: np.random.Generator, batch: np.ndarray) -> float:
    """CPU seconds for one sample."""
    start = time.process_time()
    pixels = image.decode(image.data)
    top, left = (int(draw.integers(max(1, side - CROP))) for side in pixels.shape[:2])
    crop = pixels[top : top + CROP, left : left + CROP]
    batch[: crop.shape[0], : crop.shape[1]] = crop
    return time.process_time() - start


def rates(images: list[Coded], rounds: int) -> dict[str, float]:
    """Images per second of CPU time."""
    draw, batch = np.random.default_rng(0), np.empty((CROP, CROP, 3), np.uint8)
    times: dict[str, list[float]] = {image.format: [] for image in images}
    for turn in range(rounds + 1):
        for image in images:
            least, spent = 0.05, list[float]()
            while sum(spent) < least:
                spent.append(seconds(image, draw, batch))
            if turn:  # the first one warms up
                times[image.format].append(sum(spent) / len(spent))
    return {format: 1 / median(values) for format, values in times.items()}


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", type=float, nargs="+", default=[150, 200], help="images/s of a GPU (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turbojpeg", default="", metavar="LIB", help="libturbojpeg.so (needs PyTurboJPEG)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES], metavar="NAME")
    args = parser.parse_args()
    torch.set_num_threads(1)
    low, high = min(args.gpu), max(args.gpu)
    head = f"| images | format | MB | images/s of one core | cores for {low:g} to {high:g} images/s |"
    print(f"{head}\n|---|---|---|---|---|")
    for size in args.sizes:
        images = [*coded(photo(*SIZES[size]), args.turbojpeg)]
        for image, rate in zip(images, rates(images, args.rounds).values(), strict=True):
            cores = f"{low / rate:.1f} to {high / rate:.1f}"
            print(f"| {size} | {image.format} | {len(image.data) / 1e6:.2f} | {rate:.0f} | {cores} |", flush=True)


if __name__ == "__main__":
    main()
