"""Samples per second of one loader worker: tar shards in every format against BasicSR's dataset on a folder of PNGs.

The reference is `RealESRGANDataset` of the package basicsr in a DataLoader: PNGs as its extract_subimages.py writes
them (OpenCV, compression 3), read, flipped, converted to float, with the three kernels of Real-ESRGAN's degradation.
Ours reads the same images from shards of `sr shard`, returns uint8, and synthesizes kernels on the device later. First
with images of the size of the crop, then with a crop out of large images. `JPEG 4:2:0` is a tar of JPEGs as cameras
write them; `sr shard --format jpg` keeps the chroma resolution (4:4:4), which takes longer to decode.
"""

import argparse
import gc
import io
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from bench_harness import Arm, Row, compare

PREFETCH = 4  # batches that a worker prefetches, as ours does
SETTINGS = {
    "blur_kernel_size": 21, "kernel_list": ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso",
    "plateau_aniso"], "kernel_prob": [0.45, 0.25, 0.12, 0.03, 0.12, 0.03], "sinc_prob": 0.1, "blur_sigma": [0.2, 3],
    "betag_range": [0.5, 4], "betap_range": [1, 2], "blur_kernel_size2": 21, "kernel_list2": ["iso", "aniso",
    "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"],
    "kernel_prob2": [0.45, 0.25, 0.12, 0.03, 0.12, 0.03], "sinc_prob2": 0.1, "blur_sigma2": [0.2, 1.5],
    "betag_range2": [0.5, 4], "betap_range2": [1, 2], "final_sinc_prob": 0.8, "use_hflip": True, "use_rot": False,
    "gt_size": 400,
}  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photos", type=Path, help="folder of photographs (default: those of scikit-image)")
    parser.add_argument("--samples", type=int, default=200, help="number of images of 400 x 400 (%(default)s)")
    parser.add_argument("--large", type=int, default=8, help="number of images of 2000 x 1200 (%(default)s)")
    parser.add_argument("--batch", type=int, default=12, help="samples per batch (%(default)s)")
    parser.add_argument("--batches", type=int, default=20, help="batches per measurement (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the files are written (a temporary folder)")


def run(args: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        small, large = Path(folder, "small"), Path(folder, "large")
        rows = _compared("one worker, images of 400 x 400", small, _cut(args.photos, args.samples, 1, 1), args)
        if args.large:
            rows += _compared("one worker, 400 out of 2000 x 1200", large, _cut(args.photos, args.large, 3, 5), args)
    return rows


def _compared(work: str, folder: Path, images: Iterator[Any], args: argparse.Namespace) -> list[Row]:
    tars = _written(folder, images)
    batch, batches = (args.batch, args.batches) if folder.name == "small" else (2, max(1, args.batches // 2))
    workers = _Workers(batches)
    arms = [workers.arm("BasicSR, PNG folder", _reference(folder / "png", batch), batch)]
    for name, path in tars.items():
        size = sum(tar.stat().st_size for tar in path.glob("*.tar"))
        arms.append(workers.arm(f"ours, {name}", _ours(path, batch), batch, note=f"{size / 1e6:.0f} MB"))
    rows = compare(work, arms, rounds=args.pairs, device=args.device, memory=False)
    workers.stop()
    return rows


class _Workers:
    """One loader at a time, restarted before each measurement."""

    def __init__(self, batches: int) -> None:
        self.batches, self.loaded = batches, iter(())

    def arm(self, name: str, start: Callable[[], Iterator[Any]], batch: int, note: str = "") -> Arm:
        def reset() -> None:
            self.stop()
            self.loaded = start()
            next(self.loaded)  # the worker has imported its modules

        return Arm(name, self.work, reset=reset, items=self.batches * batch, unit="samples", note=note, helpers=True)

    def work(self) -> None:
        for _ in range(self.batches):
            next(self.loaded)

    def stop(self) -> None:
        self.loaded = iter(())
        gc.collect()


def _cut(photos: Path | None, number: int, rows: int, columns: int) -> Iterator[Any]:
    """Yield uint8 [400 * rows, 400 * columns, 3], tiled from crops of photographs."""
    import numpy as np

    pieces = _pieces(photos)
    for _ in range(number):
        yield np.concatenate([np.concatenate([next(pieces) for _ in range(columns)], 1) for _ in range(rows)])


def _pieces(photos: Path | None) -> Iterator[Any]:
    """Yield random crops of 400 x 400, without end."""
    import numpy as np
    from skimage import data

    from sr.images import list_images, read_rgb

    names = ("astronaut", "coffee", "rocket")
    images = [read_rgb(path) for path in list_images(photos)] if photos else [getattr(data, name)() for name in names]
    images = [image for image in images if min(image.shape[:2]) >= 400]
    draw = np.random.default_rng(0)
    for number in count():
        image = images[number % len(images)]
        top, left = (int(draw.integers(side - 399)) for side in image.shape[:2])
        yield image[top : top + 400, left : left + 400]


def _written(folder: Path, images: Iterator[Any]) -> dict[str, Path]:
    """Write the folder of PNGs and the shards; return the shards by format."""
    import cv2

    from sr.data.make_shards import make_shards

    (folder / "png").mkdir(parents=True)
    (folder / "shards-420").mkdir()
    with tarfile.open(folder / "shards-420" / "x.tar", "w") as tar:
        for number, image in enumerate(images):
            cv2.imwrite(str(folder / "png" / f"{number:05d}.png"), image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])
            _, jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            info = tarfile.TarInfo(f"{number:05d}.jpg")
            info.size = len(jpeg)
            tar.addfile(info, io.BytesIO(jpeg.tobytes()))
    for format in ("png", "jpg", "npy"):
        make_shards(folder / "png", folder / f"shards-{format}", size=None, format=format, progress=False)
    names = {"png": "PNG", "jpg": "JPEG 4:4:4", "420": "JPEG 4:2:0", "npy": "npy"}
    return {name: folder / f"shards-{format}" for format, name in names.items()}


def _reference(folder: Path, batch: int) -> Callable[[], Iterator[Any]]:
    from torch.utils.data import DataLoader

    from sr.nets.io.basicsr import basicsr

    names = sorted(path.name for path in folder.glob("*.png"))
    listed = folder / "meta_info.txt"
    listed.write_text("\n".join(names))
    settings = {"dataroot_gt": str(folder), "meta_info": str(listed), "io_backend": {"type": "disk"}, **SETTINGS}
    dataset = basicsr("data.realesrgan_dataset").RealESRGANDataset(settings)
    again = [number % len(names) for number in range(1_000_000)]
    loader = DataLoader(dataset, batch_size=batch, sampler=again, num_workers=1, prefetch_factor=PREFETCH)
    return lambda: iter(loader)


def _ours(folder: Path, batch: int) -> Callable[[], Iterator[Any]]:
    import torchvision.io  # noqa: F401  (otherwise every worker imports it, which takes a second)

    from sr.data import ShardSource
    from sr.data.loader import Loader

    source = ShardSource(path=str(folder))
    crop = {"scale": 4, "gt_size": 256, "degrade_size": 400, "flip": True, "rotate": False}
    stream = Loader(source, seed=0, batch_size=batch, workers=1, **crop)
    return stream.batches
