"""Stages after Real-ESRGAN's: real codecs in loader workers, chroma, screentone, dithering, halos, more resizing."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from sr.core.errors import UserError
from sr.data.batch import RawBatch
from sr.degrade import STAGES, Degradation, canvas, codecs
from sr.degrade.chroma import Chroma
from sr.degrade.codecs import LibJpeg, Palette, Video, WebP
from sr.degrade.draws import draws
from sr.degrade.one_of import OneOf
from sr.degrade.resize import Downscale, Resize
from sr.degrade.tones import Dither, Halo, Screentone
from sr.images.color import rgb_to_lab
from sr.train.builder import Builder, load
from tests.test_step import Waits

SIMPLE: dict[str, Any] = {
    "libjpeg": {"prob": 1.0},
    "webp": {"prob": 1.0},
    "video": {"prob": 1.0, "codecs": {"h264": 0.5, "av1": 0.3, "mpeg2": 0.2}},
    "palette": {"prob": 1.0},
    "chroma": {"prob": 1.0},
    "screentone": {"prob": 1.0},
    "dither": {"prob": 1.0},
    "halo": {"prob": 1.0},
    "resize": {"modes": ["lanczos", "nearest"], "up_prob": 0.5, "down_prob": 0.5},
}


@pytest.fixture(scope="module")
def photo() -> Tensor:
    return torch.from_numpy(data.astronaut()[60:156, 150:262].copy()).permute(2, 0, 1) / 255


def sample(*positions: int, lq_size: tuple[int, int] = (24, 28)) -> list[Any]:
    return draws(0, 0, positions, lq_size=lq_size, device=torch.device("cpu"))


def pixels(image: Tensor) -> np.ndarray:
    return (image * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("kind", SIMPLE)
def test_a_stage_depends_on_seed_and_position_only(kind: str, photo: Tensor) -> None:
    stage = STAGES[kind](**SIMPLE[kind])
    one, two, again = stage([photo.clone()] * 3, sample(1, 2, 1))
    assert one.equal(again)
    assert one.equal(STAGES[kind](**SIMPLE[kind])([photo.clone()], sample(1))[0])
    assert one.shape != two.shape or not one.equal(two)
    assert one.min() >= 0
    assert one.max() <= 1
    if kind != "resize":
        assert one.shape == photo.shape
        assert 0.003 < (one - photo).abs().mean() < 0.4
        gray = stage([photo[:1].clone()], sample(1))[0]
        assert gray.shape == photo[:1].shape
        assert (gray.equal(photo[:1])) == (kind == "chroma")


def test_libjpeg_and_webp_are_what_pillow_writes(photo: Tensor) -> None:
    for made, options in (
        (LibJpeg(quality=(40, 40), subsampling={"4:2:2": 1}), {"format": "JPEG", "quality": 40, "subsampling": 1}),
        (WebP(quality=(20, 20)), {"format": "WEBP", "quality": 20}),
    ):
        file = io.BytesIO()
        Image.fromarray(pixels(photo)).save(file, **options)
        assert np.array_equal(pixels(made([photo], sample(0))[0]), np.asarray(Image.open(file).convert("RGB")))


@pytest.mark.parametrize("make", [lambda q: LibJpeg(quality=(q, q)), lambda q: WebP(quality=(q, q))])
def test_lower_quality_is_a_larger_error(make: Callable[[int], Any], photo: Tensor) -> None:
    errors = [(make(quality)([photo], sample(0))[0] - photo).square().mean() for quality in (95, 60, 20, 5)]
    assert errors == sorted(errors)


@pytest.mark.parametrize("codec", codecs.FFMPEG)
def test_video_codecs_code_any_size(codec: Any, photo: Tensor) -> None:
    for image in (photo, photo[:, :33, :47]):
        fine, coarse = (codecs.intra_frame(pixels(image), codec, quantizer) for quantizer in (10, 30))
        assert fine.shape == coarse.shape == (*image.shape[1:], 3)
        errors = [np.square(made.astype(float) - pixels(image)).mean() for made in (fine, coarse)]
        assert 0 < errors[0] < errors[1] < 2500
    assert np.array_equal(coarse, codecs.intra_frame(pixels(image), codec, 30))


def test_a_missing_encoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codecs.FFMPEG, "hevc", ("no_such_encoder", "hevc", {}))
    with pytest.raises(UserError, match=r"no encoder for hevc here; set codecs\.hevc to 0"):
        Video()
    assert Video(codecs={"h264": 1, "hevc": 0})


def test_palette_limits_the_colors(photo: Tensor) -> None:
    for position in range(4):
        made = pixels(Palette(prob=1, colors=(8, 16))([photo], sample(position))[0])
        assert 4 <= len(np.unique(made.reshape(-1, 3), axis=0)) <= 16


def test_chroma_keeps_luma_and_averages_color(photo: Tensor) -> None:
    stage = Chroma(layouts={"4:2:0": 1}, upsampling=["nearest"], matrices=["bt601"])
    image = photo * 0.5 + 0.25  # without clipping
    [made] = stage([image], sample(0))
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close((made * luma).sum(0), (image * luma).sum(0))
    red = made[0] - (made * luma).sum(0)
    assert red.unfold(0, 2, 2).unfold(1, 2, 2).flatten(2).std(-1).max() < 1e-6
    torch.testing.assert_close(red.mean(), (image[0] - (image * luma).sum(0)).mean())
    lab, before = rgb_to_lab(made[None]), rgb_to_lab(image[None])
    assert (lab[:, 1:] - before[:, 1:]).abs().mean() > 3 * (lab[:, 0] - before[:, 0]).abs().mean()


def test_screentone_keeps_black_white_and_the_mean_tone() -> None:
    ramp = torch.tensor([0.0, 0.3, 0.5, 0.7, 1.0]).repeat_interleave(64).expand(3, 64, -1).clone()
    for position in range(4):
        [made] = Screentone(prob=1, softness=(0.05, 0.05), gray_prob=1)([ramp], sample(position))
        assert made[0].equal(made[1])
        means = made[0].unfold(1, 64, 64).mean((0, 2))
        assert means[0] == 0
        assert means[-1] == 1
        torch.testing.assert_close(means, ramp[0, 0, ::64], atol=0.13, rtol=0)
        assert ((made < 0.01) | (made > 0.99)).float().mean() > 0.8
    [colored] = Screentone(prob=1, gray_prob=0)([ramp], sample(0))
    assert not colored[0].equal(colored[1])


def test_dither_uses_few_levels_and_keeps_the_mean(photo: Tensor) -> None:
    for pattern in ("bayer", "random"):
        [made] = Dither(prob=1, levels=(3, 3), patterns={pattern: 1})([photo], sample(0))
        assert set(made.unique().tolist()) <= {0.0, 0.5, 1.0}
        assert (made.mean((1, 2)) - photo.mean((1, 2))).abs().max() < 0.02


def test_halo_overshoots_on_the_chosen_side() -> None:
    edge = torch.full((3, 32, 32), 0.3)
    edge[..., 16:] = 0.7
    for side, dark, light in (("both", True, True), ("light", False, True), ("dark", True, False)):
        [made] = Halo(prob=1, amount=(1, 1), sigma=(2, 2), sides={side: 1})([edge.clone()], sample(0))
        assert (made.min() < 0.25) == dark
        assert (made.max() > 0.75) == light
        torch.testing.assert_close(made[..., 0], edge[..., 0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [(24, 28), (31, 40), (130, 150)])
def test_lanczos_is_that_of_pillow(size: tuple[int, int], photo: Tensor) -> None:
    [made] = Downscale(mode="lanczos")([photo], sample(0, lq_size=size))
    planes = [Image.fromarray(plane.numpy()).resize(size[::-1], Image.Resampling.LANCZOS) for plane in photo]
    expected = torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]).clip(0, 1))
    torch.testing.assert_close(made, expected, atol=2e-6, rtol=0)


def test_nearest_takes_pixels_of_the_image(photo: Tensor) -> None:
    [made] = Downscale(mode="nearest")([photo], sample(0, lq_size=(32, 37)))
    rows, columns = (((torch.arange(new) + 0.5) * old / new).long() for old, new in ((96, 32), (112, 37)))
    assert made.equal(photo[:, rows[:, None], columns])
    [half] = Resize(up_prob=0, down_prob=1, range=(0.5, 1), modes=["nearest"])([photo], sample(0))
    assert set(half.unique().tolist()) <= set(photo.unique().tolist())


def test_device_stages_wait_for_nothing_and_pad_alike(photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [photo.clone(), photo[:, :50, :70].clone()]
    names = "chroma", "screentone", "dither", "halo", "resize"
    alone = [STAGES[name](**SIMPLE[name])([i.clone() for i in images], sample(4, 9)) for name in names]
    monkeypatch.setattr(canvas, "is_accelerator", lambda device: True)
    with Waits() as waits:
        together = [STAGES[name](**SIMPLE[name])([i.clone() for i in images], sample(4, 9)) for name in names]
    assert waits.seen == []
    for one, many in zip(alone, together, strict=True):
        for a, b in zip(one, many, strict=True):
            assert ((a - b).abs() > 1e-4).float().mean() < 0.01  # thresholds may fall on either side


HOST = [{"type": "sharpen"}, {"type": "one_of", "choices": [[{"type": "webp"}], [{"type": "libjpeg"}]]}]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_list_with_a_codec_runs_in_the_loader(recipe: Callable[..., Path], workers: int) -> None:
    build = Builder(load(recipe(degrade=[*HOST, {"type": "downscale"}], data__workers=workers)))
    degradation = build.degradation(32)
    assert degradation.on_host
    source = build.source()
    loaded = build.stream(source, degradation).batches(8)
    plain = build.stream(source).batches(8)
    raw, uncut = next(loaded), next(plain)
    assert isinstance(raw, RawBatch)
    [group], [before] = raw.groups, uncut.groups
    assert before.lq is None
    assert group.degraded
    assert group.lq is not None
    assert group.lq.dtype == group.gt.dtype == torch.uint8
    expected = degradation(before.gt / 255, group.positions)
    torch.testing.assert_close(group.lq / 255, expected.lq)
    torch.testing.assert_close(group.gt / 255, expected.gt)
    from sr.degrade.on_device import OnDeviceBatch

    pair = OnDeviceBatch(degradation, device=torch.device("cpu"), channels_last=True)(raw)
    torch.testing.assert_close(pair.target, expected.target)
    assert not pair.target.equal(pair.gt)
    loaded.close()


def test_other_lists_stay_on_the_device() -> None:
    made = {name: STAGES[name]() for name in STAGES if name not in ("one_of", "downscale")}
    sizes = {"scale": 2, "gt_size": 8, "seed": 0}
    on_host = {name for name, stage in made.items() if Degradation([stage, Downscale()], **sizes).on_host}
    assert on_host == {"libjpeg", "webp", "video", "palette"}
    nested = OneOf(choices=[[Downscale()], [OneOf(choices=[[made["webp"], Downscale()]])]])
    assert Degradation([nested], scale=2, gt_size=8, seed=0).on_host


@pytest.mark.parametrize("kind", ["libjpeg", "webp", "video", "palette", "chroma", "screentone"])
def test_color_stages_need_grey_or_rgb(kind: str, recipe: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=f"{kind} is for grey and RGB"):
        load(recipe(degrade=[{"type": kind}, {"type": "downscale"}], generator__num_in_ch=2, generator__num_out_ch=2))
