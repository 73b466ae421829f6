"""`sr validate`: which pictures, which metrics, what is printed; and `sr translate` as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sr.cli import main
from sr.errors import UserError
from sr.score import Pictures
from tests.test_translate import save


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))


@pytest.fixture
def pairs(tmp_path: Path, photos: Path) -> dict[str, Path]:
    """The photos as b, their negatives as a; both side by side."""
    a, both = tmp_path / "a", tmp_path / "both"
    a.mkdir(), both.mkdir()
    for path in photos.iterdir():
        photo = np.asarray(Image.open(path))
        Image.fromarray(255 - photo).save(a / path.name)
        Image.fromarray(np.hstack([255 - photo, photo])).save(both / path.name)
    return {"a": a, "b": photos, "both": both}


def said(capsys: pytest.CaptureFixture[str], *args: str | Path) -> dict:
    assert main(["validate", "--json", *map(str, args)]) == 0
    return json.loads(capsys.readouterr().out)


def test_folders_and_halves_are_the_same_pairs(tmp_path, pairs, capsys):
    model = tmp_path / "m.safetensors"
    save(model, "resnet", num_block=1)
    by_folder = said(capsys, "--model", model, "--a", pairs["a"], "--b", pairs["b"])
    by_half = said(capsys, "--model", model, "--side-by-side", pairs["both"])
    assert by_folder == by_half
    assert list(by_folder["mean"]) == ["l1", "psnr_rgb", "ssim_rgb", "sharpness", "chroma"]
    assert "AlexNet" in by_folder["left_out"]["lpips"]
    assert len(by_folder["images"]) == 6
    assert by_folder["input"]["sharpness"] == pytest.approx(1)
    back = said(capsys, "--model", model, "--side-by-side", pairs["both"], "--direction", "b_to_a", "--metrics", "l1")
    assert back["input"]["l1"] == by_folder["input"]["l1"]
    assert back["mean"]["l1"] != by_folder["mean"]["l1"]
    assert list(back["mean"]) == ["l1"]


def test_direction_and_channels_are_those_of_the_model(tmp_path, pairs, capsys):
    model = tmp_path / "m.safetensors"
    extra = {"options": json.dumps({"data": {"direction": "b_to_a"}})}
    save(model, "resnet", num_block=1, num_in_ch=1, num_out_ch=3, extra=extra)
    as_trained = said(capsys, "--model", model, "--side-by-side", pairs["both"])
    assert as_trained == said(capsys, "--model", model, "--a", pairs["a"], "--b", pairs["b"], "--direction", "b_to_a")


@pytest.mark.parametrize(("space", "out"), [("lab", 2), ("rgb", 3)])
def test_colouring_is_measured_on_photographs_beside_grey(tmp_path, photos, capsys, space, out):
    model, sheet = tmp_path / "m.safetensors", tmp_path / "sheet.png"
    save(model, "unet", num_downs=3, num_in_ch=1, num_out_ch=out, extra={"colours": space})
    table = said(capsys, "--model", model, "--hr", photos, "--size", "32", "--sheet", sheet, "--rows", "2")
    assert table["input"]["chroma"] > 10
    assert table["mean"]["chroma"] != table["input"]["chroma"]
    assert Image.open(sheet).size == (3 * 32 + 8, 16 + 2 * 32 + 4)
    shown = np.asarray(Image.open(sheet)).astype(int)[16:, :32]
    assert (shown.max(-1) - shown.min(-1)).max() <= 1


def test_the_table_for_people(tmp_path, pairs, capsys):
    model = tmp_path / "m.safetensors"
    save(model, "resnet", num_block=1)
    assert main(["validate", "--model", str(model), "--side-by-side", str(pairs["both"])]) == 0
    told = capsys.readouterr()
    names = [line.split()[0] for line in told.out.splitlines()]
    assert names == [*(f"photo_{n}" for n in range(6)), "mean", "input"]
    assert "lpips is left out: AlexNet's weights are not on this disk" in told.err


def test_super_resolution_as_before(photos, capsys):
    table = said(capsys, "--model", "bicubic", "--scale", "2", "--hr", photos)
    assert list(table["mean"]) == ["psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb"]
    assert "input" not in table


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--hr", "x", "--a", "y"], "in one way"),
        (["--a", "x"], "in one way"),
        (["--lr", "x"], "in one way"),
        ([], "in one way"),
        (["--hr", "PHOTOS"], "needs pictures to start from"),
        (["--hr", "PHOTOS", "--lr", "PHOTOS", "--size", "32"], "give --a and --b"),
        (["--side-by-side", "PHOTOS", "--metrics", "ssim"], "no metric 'ssim'"),
        (["--side-by-side", "PHOTOS", "--sheet", "x.gif"], "cannot write that"),
        (["--side-by-side", "PHOTOS", "--scale", "4"], "enlarges by 1, not 4"),
        (["--model", "bicubic", "--scale", "2", "--a", "PHOTOS", "--b", "PHOTOS"], "bicubic x2 enlarges; give --hr"),
        (["--model", "lab.safetensors", "--a", "PHOTOS", "--b", "PHOTOS"], "give them with --hr"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_sentence(tmp_path, photos, capsys, given, message):
    save(tmp_path / "m.safetensors", "resnet", num_block=1)
    save(tmp_path / "lab.safetensors", "resnet", num_block=1, num_in_ch=1, num_out_ch=2, extra={"colours": "lab"})
    args = [str(photos) if a == "PHOTOS" else str(tmp_path / a) if a.endswith(".safetensors") else a for a in given]
    model = [] if "--model" in args else ["--model", str(tmp_path / "m.safetensors")]
    assert main(["validate", *model, *args]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_pairs_of_different_size_name_the_picture(tmp_path, photos):
    other = tmp_path / "a"
    other.mkdir()
    for path in photos.iterdir():
        Image.open(path).resize((40, 40)).save(other / path.name)
    save(tmp_path / "m.safetensors", "resnet", num_block=1)
    args = ["--model", str(tmp_path / "m.safetensors"), "--a", str(other), "--b", str(photos)]
    assert main(["validate", *args]) == 2
    assert main(["validate", *args, "--size", "32"]) == 0


def test_translate_writes_lists_failures_and_exits_1(tmp_path, pairs, capsys):
    extra = {"options": json.dumps({"data": {"direction": "b_to_a"}})}
    save(tmp_path / "m.safetensors", "resnet", num_block=1, extra=extra)
    (pairs["both"] / "photo_0.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    args = ["translate", str(pairs["both"]), "-o", str(out), "-m", str(tmp_path / "m.safetensors"), "--side-by-side"]
    assert main(args) == 1
    told = capsys.readouterr()
    assert "5 image(s) written" in told.out
    assert "photo_0.png: not an image" in told.err
    assert {Image.open(path).size for path in out.iterdir()} == {(56, 48)}
    assert main([*args, "--direction", "a_to_b", "--suffix", "_a"]) == 1
    taken = [np.asarray(Image.open(out / name)).astype(int) for name in ("photo_1.png", "photo_1_a.png")]
    assert np.abs(taken[0] - taken[1]).max() > 10, "the other half was taken"
    assert main(["upscale", str(pairs["a"]), "-o", str(tmp_path / "up"), "-m", str(tmp_path / "m.safetensors")]) == 0
    with pytest.raises(UserError, match="in one way"):
        Pictures().check()
