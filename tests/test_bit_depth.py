"""Training above 8 bits: 16-bit sources keep their depth up to the loss, and degraded images follow it."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from sr.data.batch import RawBatch, SubBatch
from sr.data.codecs import decode, encode
from sr.data.colorize import Colorize
from sr.data.crops import Crops
from sr.data.folder import FolderSource
from sr.data.make_shards import make_shards
from sr.data.paired import SideBySide
from sr.data.shards import ShardSource
from sr.data.source import resized
from sr.degrade import Degradation
from sr.degrade.on_device import OnDeviceBatch
from sr.degrade.resize import Downscale
from sr.images import eight_bits, read_pixels, with_channels
from sr.train.builder import Builder, load
from sr.train.summary import degrade_folder

SIDE = 40
BASE = np.random.default_rng(0).integers(0, 65000, (SIDE, SIDE, 3)).astype(np.uint16) // 257 * 257

PSNR: dict[str, Any] = {"task": "psnr", "discriminator": None, "losses": {"pixel": {"type": "l1"}}}
PSNR["optimizer__discriminator"] = None


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb")
    else:
        path.write_bytes(encode(pixels, path.suffix[1:]))
    return path


def batches(options: Path, count: int = 1) -> list[Any]:
    run = Builder(load(options)).trainer()
    loaded = run.batches(0)
    return [run.prepare(next(loaded)) for _ in range(count)]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("pairs", [False, True])
def test_images_that_differ_below_8_bits_give_different_targets(
    recipe: Callable[..., Path], tmp_path: Path, suffix: str, pairs: bool
) -> None:
    targets, inputs = [], []
    for name, more in (("plain", 0), ("brighter", 1)):
        source = {"type": "folder", "gt": str(write(tmp_path / name / f"a{suffix}", BASE + more).parent)}
        if pairs:
            source["lq"] = str(write(tmp_path / f"lq_{name}" / f"a{suffix}", BASE[::2, ::2] + more).parent)
        file = recipe(name=name, degrade=[{"type": "downscale"}], data__source=source, **PSNR)
        [batch] = batches(file)
        targets.append(batch.target)
        inputs.append(batch.lq)
    for one, other in (targets, inputs):
        torch.testing.assert_close((other - one) * 65535, torch.ones_like(one), atol=0.02 if pairs else 1.01, rtol=0)
    assert len((inputs[0] * 65535).round().unique()) > 256 or pairs
    assert ((targets[1] * 255) % 1).max() > 1e-3  # not a level of 8 bits


def test_lq_bits_rounds_the_input_alone(recipe: Callable[..., Path], tmp_path: Path) -> None:
    write(tmp_path / "deep" / "one.png", BASE + 77)
    changes = {"data__source": {"type": "folder", "gt": str(tmp_path / "deep")}, "data__lq_bits": 8}
    for stages in ([], [{"type": "webp"}]):
        [batch] = batches(recipe(degrade=[*stages, {"type": "downscale"}], **changes, **PSNR))
        levels = batch.lq * 255
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        assert ((batch.gt * 65535).round() % 257 == 77).all()


def test_sr_degrade_writes_the_depth_that_training_sees(recipe: Callable[..., Path], tmp_path: Path) -> None:
    write(tmp_path / "deep" / "one.png", BASE + 77)
    for bits, dtype in ((None, np.uint16), (8, np.uint8)):
        options = load(recipe(degrade=[{"type": "downscale"}], **({"data__lq_bits": bits} if bits else {}), **PSNR))
        [made] = degrade_folder(options, str(tmp_path / "deep"), tmp_path / f"seen_{bits}")
        assert read_pixels(made, channels=3, deep=True).dtype == dtype


def test_a_sample_of_8_bits_is_the_same_among_deep_ones() -> None:
    class Both:
        counts = (2,)

        def read(self, shard: int, index: int) -> Any:
            from sr.data.source import Sample

            return Sample(gt=eight_bits(BASE) if index else BASE + 3)

        def name(self, shard: int, index: int) -> str:
            return str(index)

    degradation = Degradation([Downscale()], scale=2, gt_size=16, seed=0)
    prepare = OnDeviceBatch(degradation, device=torch.device("cpu"), channels_last=False)
    sizes = {"scale": 2, "gt_size": 16, "degrade_size": 20, "flip": True, "rotate": True}
    for inner in (None, degradation):
        crops = Crops(Both(), seed=0, degradation=inner, **sizes)
        together: Any = crops[list(range(8))]
        batch = prepare(RawBatch([SubBatch(*group) for group in together["groups"]]))
        assert {group[2].dtype for group in together["groups"]} == {torch.uint8, torch.uint16}
        for position in range(8):
            alone: Any = crops[[position]]
            one = prepare(RawBatch([SubBatch(*group) for group in alone["groups"]]))
            assert one.lq[0].equal(batch.lq[position])
            assert one.gt[0].equal(batch.gt[position])


def test_images_of_16_bits_are_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    degradation = Degradation([Downscale()], scale=2, gt_size=16, seed=0)
    prepare = OnDeviceBatch(degradation, device=torch.device("cpu"), channels_last=False, deep_note="16 bits")
    said = []
    for dtype in (torch.uint8, torch.uint16, torch.uint16):
        images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8).to(dtype)
        prepare(RawBatch([SubBatch([0], [0], images, None)]))
        said.append(capsys.readouterr().err)
    assert said == ["", "16 bits\n", ""]


@pytest.mark.parametrize("rotate", [False, True])
def test_crops_of_16_bits_equal_those_of_8(rotate: bool, tmp_path: Path) -> None:
    write(tmp_path / "deep" / "a.png", BASE)
    write(tmp_path / "plain" / "a.png", eight_bits(BASE))
    deep, plain = (
        Crops(
            FolderSource(gt=str(tmp_path / folder)),
            seed=1, scale=2, gt_size=16, degrade_size=16, flip=True, rotate=rotate,
        )
        for folder in ("deep", "plain")
    )  # fmt: skip
    for position in range(8):
        assert (deep.crop(position).gt.int() == plain.crop(position).gt.int() * 257).all()


def test_shards_keep_16_bits(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "a.png", BASE + 5)
    for format in ("png", "npy", "jpg"):
        make_shards(str(tmp_path / "deep"), tmp_path / format, size=SIDE, step=SIDE, format=format, workers=1)
        read = ShardSource(path=str(tmp_path / format)).read(0, 0).gt
        assert read.dtype == (np.uint8 if format == "jpg" else np.uint16)
        if format != "jpg":
            assert np.array_equal(read, BASE + 5)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_round_trips(channels: int) -> None:
    pixels = np.random.default_rng(channels).integers(0, 65536, (7, 9, channels)).astype(np.uint16)
    data = encode(pixels, "png")
    assert np.array_equal(decode(data, channels=channels, name="x"), pixels)
    with Image.open(io.BytesIO(data)) as image:
        image.load()  # Pillow agrees that it is valid
    assert np.array_equal(read_pixels(data, channels=channels), eight_bits(pixels))


def test_channels_and_sizes_of_16_bits_follow_8_bits() -> None:
    plain = np.asarray(Image.effect_noise((20, 24), 60).convert("RGB"))
    deep = plain.astype(np.uint16) * 257
    for channels in (1, 2, 3, 4):
        difference = with_channels(deep, channels) / 257 - with_channels(plain, channels)
        assert np.abs(difference).max() < 0.51
        assert with_channels(deep, channels).dtype == np.uint16
    assert np.abs(resized(deep, 12) / 257 - resized(plain, 12)).max() < 1.01


def test_pairs_in_one_file_keep_16_bits_and_derived_pairs_have_8(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "a.png", BASE + 5)
    whole = SideBySide(path=str(tmp_path / "deep")).read(0, 0)
    assert whole.lq is not None
    assert np.array_equal(np.concatenate([whole.lq, whole.gt], 1), BASE + 5)
    made = Colorize(of=lambda channels: FolderSource(gt=str(tmp_path / "deep"), channels=channels)).read(0, 0)
    assert made.gt.dtype == np.uint8
