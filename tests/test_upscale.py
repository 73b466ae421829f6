"""Upscaling: files stay of their kind, trees are mirrored, names never collide, a failure costs only itself."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from spandrel import ModelLoader
from spandrel.architectures.SPAN import SPAN
from torch import Tensor, nn

from sr.cli import main
from sr.core.errors import UserError
from sr.images import ImageData, bicubic, read_image, write_image
from sr.images.alpha import bleed_colors
from sr.inference.folders.convert import plan
from sr.inference.upscale import Upscaler, pick_model, upscale
from sr.nets.io.load import Model, architecture
from sr.nets.io.state_dicts import save_pth, save_safetensors
from sr.nets.rrdbnet import RRDBNet

BICUBIC = pick_model("bicubic", scale=2)


def draw(path: Path, *, height: int = 12, width: int = 14, **kind) -> ImageData:
    """Write a smooth image and return what a reader gets."""
    ramp = torch.linspace(0.1, 0.9, width).expand(3, height, width) * torch.linspace(0.5, 1, height)[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, ImageData(rgb=ramp, **kind))
    return read_image(path)


def names(folder: Path) -> list[str]:
    """Of all files, but for the records of what was made."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith(".sr/"))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_network_of_spandrel_upscales_a_file(tmp_path, capsys, bits):
    save_pth(tmp_path / "m.pth", SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2).state_dict())
    given = draw(tmp_path / "in.png", bits=bits)
    assert (
        main(["upscale", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), "-m", str(tmp_path / "m.pth")]) == 0
    )
    made = ModelLoader().load_from_file(tmp_path / "m.pth")(given.rgb[None])[0]
    step = 0.51 / (2**bits - 1)
    torch.testing.assert_close(read_image(tmp_path / "out.png").rgb, made, atol=step + 1e-5, rtol=0)


KINDS = [(8, gray, alpha) for gray in (False, True) for alpha in (False, True)]
KINDS += [(16, False, False), (16, True, False), (16, False, True)]  # Pillow reads 16-bit grey with alpha as 8 bits


@pytest.mark.parametrize(("bits", "gray", "alpha"), KINDS)
def test_a_file_stays_of_its_kind(tmp_path, bits, gray, alpha):
    cover = torch.linspace(0, 1, 12)[None, :, None].expand(1, 12, 14) if alpha else None
    given = draw(tmp_path / "in.png", bits=bits, gray=gray, alpha=cover)
    report = upscale([tmp_path / "in.png"], tmp_path / "out.png", BICUBIC)
    assert report.written == [tmp_path / "out.png"]
    made = read_image(tmp_path / "out.png")
    assert (made.bits, made.gray, made.alpha is not None) == (bits, gray, alpha)
    step = 0.51 / (2**bits - 1)
    colors = bleed_colors(given.rgb, given.alpha) if alpha else given.rgb
    torch.testing.assert_close(made.rgb, bicubic.resize(colors, scale=2).clamp(0, 1), atol=step, rtol=0)
    if alpha:
        torch.testing.assert_close(made.alpha, bicubic.resize(given.alpha, scale=2).clamp(0, 1), atol=step, rtol=0)


def test_what_a_format_cannot_hold_is_said_once_for_all_images(tmp_path, capsys):
    cover = torch.linspace(0, 1, 12)[None, :, None].expand(1, 12, 14)
    for name in ("a", "b"):
        draw(tmp_path / "in" / f"{name}.png", bits=16, alpha=cover)
    draw(tmp_path / "in" / "opaque.png", alpha=torch.ones(1, 12, 14))
    command = ["upscale", str(tmp_path / "in"), "-m", "bicubic", "--scale", "2", "-o"]
    assert main([*command, str(tmp_path / "jpg"), "--format", "jpg"]) == 0
    listed = capsys.readouterr().err.splitlines()
    first = tmp_path / "in" / "a.png"
    assert listed == [
        "2 note(s):",
        f"  2 files, such as {first}: 16 bits become 8: jpg has no more",
        f"  2 files, such as {first}: transparency is composited on white: jpg has none",
    ]
    assert main([*command, str(tmp_path / "png")]) == 0
    assert "note" not in capsys.readouterr().err


def test_a_tree_is_mirrored_and_nothing_is_lost(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in ("a.png", "a.jpg", "A.webp", "one b.é.bmp", "deep/a.png", "deep/c.TIF"):
        draw(photos / name)
    (photos / "notes.txt").write_text("no image")
    (photos / "broken.png").write_bytes(b"\x89PNG nothing")
    report = upscale([photos], out, BICUBIC, format="png", suffix="_x2")
    assert names(out) == [
        "A_webp_x2.png",
        "a_jpg_x2.png",
        "a_png_x2.png",
        "deep/a_x2.png",
        "deep/c_x2.png",
        "one b.é_x2.png",
    ]
    assert sorted(report.written) == sorted(out / name for name in names(out))
    assert [path for path, _ in report.skipped] == [photos / "notes.txt"]
    ((path, reason),) = report.failed
    assert path == photos / "broken.png"
    assert "not an image" in reason


def test_own_format_is_kept(tmp_path):
    for name in ("a.jpg", "b.JPEG", "c.webp", "d.tiff"):
        draw(tmp_path / "in" / name)
    upscale([tmp_path / "in"], tmp_path / "out", BICUBIC)
    assert names(tmp_path / "out") == ["a.jpg", "b.JPEG", "c.webp", "d.tiff"]


def test_names_that_only_collide_after_renaming(tmp_path):
    for name in ("a.jpg", "a.png", "a_png.bmp", "a_png_2.bmp"):
        draw(tmp_path / "in" / name)
    jobs = plan([tmp_path / "in"], tmp_path / "out", format="png", suffix="").jobs
    assert len({job.target for job in jobs}) == len(jobs) == 4


def test_the_same_names_in_two_folders_and_a_file_given_twice(tmp_path):
    for name in ("one/a.png", "two/a.png"):
        draw(tmp_path / name)
    inputs = [tmp_path / "one", tmp_path / "two", tmp_path / "one" / "a.png"]
    jobs = plan(inputs, tmp_path / "out", format=None, suffix="").jobs
    assert [job.source for job in jobs] == [tmp_path / "one/a.png", tmp_path / "two/a.png"]
    assert jobs[0].target != jobs[1].target


def test_earlier_output_inside_the_input_is_no_input(tmp_path):
    draw(tmp_path / "a.png")
    for _ in range(2):
        report = upscale([tmp_path], tmp_path / "out", BICUBIC)
        assert report.written + report.kept == [tmp_path / "out" / "a.png"]
        assert not report.skipped


def test_plans_that_cannot_work(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    for inputs, output, settings, message in [
        ([tmp_path / "a.png"], tmp_path, {}, "would overwrite an input"),
        ([tmp_path / "a.png"], tmp_path / "a.png", {}, "would overwrite an input"),
        ([tmp_path / "b.png"], tmp_path / "out", {}, "no such file"),
        ([tmp_path / "empty"], tmp_path / "out", {}, "no images"),
        ([tmp_path / "a.png"], tmp_path / "out.gif", {}, "cannot write '.gif'"),
        ([tmp_path / "a.png"], tmp_path / "out.jpg", {"format": "png"}, "names the file itself"),
        ([tmp_path, tmp_path / "a.png"], tmp_path / "a.png", {}, "is a file"),
        ([tmp_path / "a.png"], tmp_path / "out", {"tile": 32, "overlap": 17}, "give 0 to 16"),
    ]:
        with pytest.raises(UserError, match=message):
            upscale(inputs, output, BICUBIC, **settings)
    assert names(tmp_path) == ["a.png"]


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, torch.nan)


def test_broken_numbers_are_not_written(tmp_path):
    draw(tmp_path / "a.png")
    report = upscale([tmp_path / "a.png"], tmp_path / "out", Model(Broken(), 1, 1, "broken"))
    assert "not finite" in report.failed[0][1]
    assert not report.written
    assert not names(tmp_path / "out")


def test_a_saved_model_in_tiles_equals_the_net_on_the_whole(tmp_path):
    torch.manual_seed(0)
    kwargs = {"scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}
    net = RRDBNet(**kwargs).eval()
    save_safetensors(tmp_path / "net.safetensors", net.state_dict(), architecture("rrdbnet", kwargs))
    given = draw(tmp_path / "a.png", height=70, width=53)
    steps: list[tuple[int, int]] = []
    model = pick_model(str(tmp_path / "net.safetensors"))
    enlarge = Upscaler(model, tile=48, overlap=24)
    (made,) = enlarge([given], on_tiles=lambda *step: steps.append(step))
    with torch.no_grad():
        whole = net(given.rgb[None])[0].clamp(0, 1)
    assert steps[-1] == (4, 4)
    assert (made.rgb - whole).abs().max() < 0.1 / 255


def test_models_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match="--scale"):
        pick_model("bicubic")
    kwargs = {"scale": 1, "num_feat": 8, "num_block": 1, "num_grow_ch": 4, "num_in_ch": 1, "num_out_ch": 2}
    metadata = architecture("rrdbnet", kwargs) | {"colours": "lab"}
    save_safetensors(tmp_path / "g.safetensors", RRDBNet(**kwargs).state_dict(), metadata)
    with pytest.raises(UserError, match=r"a model of lab, which keeps the size; use sr translate"):
        pick_model(str(tmp_path / "g.safetensors"))


def test_flat_white_stays_white(tmp_path):
    write_image(tmp_path / "a.png", ImageData(rgb=torch.ones(3, 40, 40)))
    upscale([tmp_path / "a.png"], tmp_path / "out", BICUBIC, tile=16, overlap=8)
    made = read_image(tmp_path / "out" / "a.png")
    assert np.array_equal(made.rgb.numpy(), np.ones((3, 80, 80), np.float32))


# ---- sizes, alpha, grey, self-ensemble -------------------------------------------------------------------------------


class Nearest(nn.Module):
    """Doubles by repeating pixels; seen: the shape of all that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def image(height: int = 12, width: int = 14, **kind) -> ImageData:
    return ImageData(rgb=torch.rand(3, height, width, generator=torch.Generator().manual_seed(1)), **kind)


@pytest.mark.parametrize("kind", [{}, {"gray": True}, {"bits": 16}, {"alpha": torch.full((1, 12, 14), 0.3)}])
@pytest.mark.parametrize("outscale", [None, 3])
def test_quantized_outputs_are_written_as_the_others(tmp_path, kind, outscale):
    upscaler = Upscaler(Model(Nearest(), 2, 1, "nearest"), outscale=outscale)
    given = image(**kind)
    (quantized,) = upscaler.start([given], quantize=True)()
    write_image(tmp_path / "quantized.png", quantized)
    write_image(tmp_path / "plain.png", upscaler([given])[0])
    assert (tmp_path / "quantized.png").read_bytes() == (tmp_path / "plain.png").read_bytes()
    assert (quantized.rgb.dtype == torch.uint8) == (not kind and outscale is None)


@pytest.mark.parametrize(
    ("outscale", "size"), [(None, (24, 28)), (2, (24, 28)), (1.5, (18, 21)), (0.3, (4, 4)), (3, (36, 42))]
)
def test_any_size_comes_out(outscale, size):
    cover = torch.rand(1, 12, 14)
    (made,) = Upscaler(Model(Nearest(), 2, 1, "nearest"), outscale=outscale)([image(alpha=cover)])
    assert tuple(made.rgb.shape) == (3, *size)
    assert tuple(made.alpha.shape) == (1, *size)


def test_outscale_weighs_areas():
    """Shrunk to a third, stripes one pixel wide become the grey of their mean, and no pattern of their own."""
    stripes = torch.zeros(3, 96, 96)
    stripes[..., ::2] = 1
    (made,) = Upscaler(Model(Nearest(), 2, 1, "nearest"), outscale=2 / 3)([ImageData(rgb=stripes)])
    inner = made.rgb[..., 8:-8, 8:-8]
    assert (inner - 0.5).abs().max() < 0.04
    edge = torch.zeros(3, 60, 60)
    edge[..., 30:] = 1
    (made,) = Upscaler(Model(Nearest(), 2, 1, "nearest"), outscale=1.5)([ImageData(rgb=edge)])
    place = (made.rgb[0].sum(1) - 45).abs()  # half of 90 columns white: nothing has moved
    assert place.max() < 0.02


@pytest.mark.parametrize("outscale", [0, -1, 17, float("nan")])
def test_sizes_that_make_no_sense(outscale):
    with pytest.raises(UserError, match=r"--outscale .* give a number above 0"):
        Upscaler(BICUBIC, outscale=outscale)


def test_alpha_by_the_net_or_by_bicubic():
    cover = torch.rand(1, 12, 14)
    net = Nearest()
    (made,) = Upscaler(Model(net, 2, 1, "nearest"), alpha="net")([image(alpha=cover)])
    torch.testing.assert_close(made.alpha, net(cover[None])[0], atol=1e-6, rtol=0)
    (made,) = Upscaler(Model(net, 2, 1, "nearest"))([image(alpha=cover)])
    torch.testing.assert_close(made.alpha, bicubic.resize(cover, scale=2).clamp(0, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("gray", [True, False])
def test_a_net_for_grey(gray):
    net = Nearest()
    given = image(alpha=torch.rand(1, 12, 14))
    given = dataclasses.replace(given, rgb=given.rgb[:1].repeat(3, 1, 1), gray=True) if gray else given
    (made,) = Upscaler(Model(net, 2, 1, "nearest", 1, 1), alpha="net")([given])
    assert all(shape[1] == 1 for shape in net.seen)
    images = [shape for shape in net.seen if shape[-2:] == (12, 14)]  # others are counted for their memory
    assert sum(shape[0] for shape in images) == (2 if gray else 4)
    torch.testing.assert_close(made.rgb, net(given.rgb[None])[0], atol=1e-6, rtol=0)


class Leaning(nn.Module):
    """Moves the image by a pixel, which the mean over flips and rotations takes back on the whole."""

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, 3)


def test_self_ensemble_is_the_same_in_all_directions():
    model = Model(Leaning(), 1, 1, "leaning")
    given = image(9, 13)
    made = Upscaler(model, tta=True)([given])[0].rgb
    turned = Upscaler(model, tta=True)([dataclasses.replace(given, rgb=given.rgb.rot90(1, (1, 2)).flip(2))])[0].rgb
    torch.testing.assert_close(turned, made.rot90(1, (1, 2)).flip(2), atol=1e-6, rtol=0)
    x = given.rgb
    expected = (x.roll(1, 1) + x.roll(-1, 1) + x.roll(1, 2) + x.roll(-1, 2)) / 4
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=0)


def test_images_together_are_those_alone():
    given = [image(12, 14), image(30, 20, alpha=torch.rand(1, 30, 20)), image(12, 14, bits=16)]
    enlarge = Upscaler(BICUBIC, tile=16, overlap=8, alpha="net")
    for made, alone in zip(enlarge(given), given, strict=True):
        (expected,) = enlarge([alone])
        assert torch.equal(made.rgb, expected.rgb)
        assert made.bits == expected.bits


# ---- the program -----------------------------------------------------------------------------------------------------


@pytest.fixture
def two_models(tmp_path) -> list[str]:
    kwargs = {"scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        save_safetensors(file, RRDBNet(**kwargs).state_dict(), architecture("rrdbnet", kwargs))
    return [str(file) for file in files]


def test_flags_reach_the_images(tmp_path, two_models, capsys):
    draw(tmp_path / "in.png", height=20, width=30, alpha=torch.rand(1, 20, 30))
    a, b = two_models
    ways = [
        ["-m", a, "--precision", "fp32"],
        ["-m", a, "--precision", "mixed"],
        ["-m", a, "--tta"],
        ["-m", a, "--tile", "16", "--overlap", "4"],
        ["--blend", f"{a}:0.7", f"{b}:0.3"],
        ["-m", a, "--outscale", "2.5"],
        ["-m", a, "--alpha", "net"],
    ]
    made = []
    for number, way in enumerate(ways):
        out = tmp_path / f"{number}.png"
        assert main(["upscale", str(tmp_path / "in.png"), "-o", str(out), "--device", "cpu", *way]) == 0
        made.append(read_image(out))
    first, *others = made
    assert (others[0].rgb - first.rgb).abs().max() <= 1.01 / 255
    assert all(not torch.equal(other.rgb, first.rgb) for other in others[1:4])
    assert tuple(others[4].rgb.shape) == (3, 50, 75)
    assert torch.equal(others[5].rgb, first.rgb)
    assert not torch.equal(others[5].alpha, first.alpha)
    assert "bf16 blocks in fp32 differs from fp32 by up to 0." in capsys.readouterr().err


def test_one_model_or_a_blend(tmp_path, capsys):
    models = ["-m", "a.pth", "--blend", "a.pth", "b.pth"]
    assert main(["upscale", str(tmp_path), "-o", str(tmp_path / "out"), *models]) == 2
    assert "give either --model FILE or --blend" in capsys.readouterr().err


def test_other_settings_make_the_image_again(tmp_path, two_models):
    draw(tmp_path / "in" / "a.png")
    one, other = (pick_model(file) for file in two_models)
    ways = [
        (one, {}),
        (one, {"tta": True}),
        (one, {"outscale": 1.5}),
        (one, {"alpha": "net"}),
        (other, {"alpha": "net"}),
    ]
    for model, how in ways:
        for seen in ("written", "kept"):
            report = upscale([tmp_path / "in"], tmp_path / "out", model, **how)
            assert getattr(report, seen) == [tmp_path / "out" / "a.png"], (how, seen)
