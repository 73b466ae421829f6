"""Upscaling: files stay of their kind, trees are mirrored, names never collide, a failure costs only itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sr import bicubic
from sr.errors import UserError
from sr.images import Picture, read_picture, write_picture
from sr.jobs import plan
from sr.nets.layouts import save_safetensors
from sr.nets.models import Model, architecture
from sr.nets.rrdbnet import RRDBNet
from sr.upscale import enlarge, pick_model, upscale

BICUBIC = pick_model("bicubic", scale=2)


def draw(path: Path, *, height: int = 12, width: int = 14, **kind) -> Picture:
    """Write a smooth picture and return what a reader gets."""
    ramp = torch.linspace(0.1, 0.9, width).expand(3, height, width) * torch.linspace(0.5, 1, height)[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, Picture(rgb=ramp, **kind))
    return read_picture(path)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


KINDS = [(8, gray, alpha) for gray in (False, True) for alpha in (False, True)]
KINDS += [(16, False, False), (16, True, False), (16, False, True)]  # Pillow reads 16-bit grey with alpha as 8 bits


@pytest.mark.parametrize(("bits", "gray", "alpha"), KINDS)
def test_a_file_stays_of_its_kind(tmp_path, bits, gray, alpha):
    cover = torch.linspace(0, 1, 12)[None, :, None].expand(1, 12, 14) if alpha else None
    given = draw(tmp_path / "in.png", bits=bits, gray=gray, alpha=cover)
    report = upscale([tmp_path / "in.png"], tmp_path / "out.png", BICUBIC)
    assert report.written == [tmp_path / "out.png"]
    made = read_picture(tmp_path / "out.png")
    assert (made.bits, made.gray, made.alpha is not None) == (bits, gray, alpha)
    step = 0.51 / (2**bits - 1)
    expected = bicubic.resize(given.rgb, scale=2).clamp(0, 1)
    torch.testing.assert_close(made.rgb, expected, atol=step, rtol=0)
    if alpha:
        torch.testing.assert_close(made.alpha, bicubic.resize(given.alpha, scale=2).clamp(0, 1), atol=step, rtol=0)


def test_a_tree_is_mirrored_and_nothing_is_lost(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in ("a.png", "a.jpg", "A.webp", "one b.é.bmp", "deep/a.png", "deep/c.TIF"):
        draw(photos / name)
    (photos / "notes.txt").write_text("no picture")
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
    assert report.ignored == [photos / "notes.txt"]
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
    jobs, _ = plan([tmp_path / "in"], tmp_path / "out", format="png", suffix="")
    assert len({job.target for job in jobs}) == len(jobs) == 4


def test_the_same_names_in_two_folders_and_a_file_given_twice(tmp_path):
    for name in ("one/a.png", "two/a.png"):
        draw(tmp_path / name)
    inputs = [tmp_path / "one", tmp_path / "two", tmp_path / "one" / "a.png"]
    jobs, _ = plan(inputs, tmp_path / "out", format=None, suffix="")
    assert [job.source for job in jobs] == [tmp_path / "one/a.png", tmp_path / "two/a.png"]
    assert jobs[0].target != jobs[1].target


def test_earlier_output_inside_the_input_is_no_input(tmp_path):
    draw(tmp_path / "a.png")
    for _ in range(2):
        report = upscale([tmp_path], tmp_path / "out", BICUBIC)
        assert report.written == [tmp_path / "out" / "a.png"]
        assert not report.ignored


def test_plans_that_cannot_work(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    for inputs, output, settings, message in [
        ([tmp_path / "a.png"], tmp_path, {}, "would overwrite an input"),
        ([tmp_path / "a.png"], tmp_path / "a.png", {}, "would overwrite an input"),
        ([tmp_path / "b.png"], tmp_path / "out", {}, "no such file"),
        ([tmp_path / "empty"], tmp_path / "out", {}, "no pictures"),
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
    made = enlarge(given, model, tile=48, overlap=24, on_tiles=lambda *step: steps.append(step))
    with torch.no_grad():
        whole = net(given.rgb[None])[0].clamp(0, 1)
    assert steps[-1] == (4, 4)
    assert (made.rgb - whole).abs().max() < 0.1 / 255


def test_models_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match="--scale"):
        pick_model("bicubic")
    kwargs = {"scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4, "num_in_ch": 1, "num_out_ch": 1}
    save_safetensors(tmp_path / "g.safetensors", RRDBNet(**kwargs).state_dict(), architecture("rrdbnet", kwargs))
    with pytest.raises(UserError, match=r"1 channels and makes 1; .* sr translate"):
        pick_model(str(tmp_path / "g.safetensors"))


def test_flat_white_stays_white(tmp_path):
    write_picture(tmp_path / "a.png", Picture(rgb=torch.ones(3, 40, 40)))
    upscale([tmp_path / "a.png"], tmp_path / "out", BICUBIC, tile=16, overlap=8)
    made = read_picture(tmp_path / "out" / "a.png")
    assert np.array_equal(made.rgb.numpy(), np.ones((3, 80, 80), np.float32))
