"""`sr validate`: which images, which metrics, what is printed; and `sr translate` as a user types it."""

import csv
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sr.cli import main
from sr.core.errors import UserError
from sr.evaluate.score import Images
from sr.evaluate.validate.usual import set_names, usual_sets
from tests.helpers.models import save
from tests.helpers.program import ON_CPU, TWO, sr


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
def test_colorization_is_measured_on_photographs_and_against_grey(tmp_path, photos, capsys, space, out):
    model, sheet = tmp_path / "m.safetensors", tmp_path / "sheet.png"
    save(model, "unet", num_downs=3, num_in_ch=1, num_out_ch=out, extra={"colours": space})
    table = said(capsys, "--model", model, "--hr", photos, "--size", "32", "--sheet", sheet, "--rows", "2")
    assert table["input"]["chroma"] > 10
    assert table["mean"]["chroma"] != table["input"]["chroma"]
    assert Image.open(sheet).size == (3 * 32 + 8, 16 + 2 * 32 + 4)
    shown = np.asarray(Image.open(sheet)).astype(int)[16:, :32]
    assert (shown.max(-1) - shown.min(-1)).max() <= 1


def test_photographs_are_no_input_for_a_model_of_edges(tmp_path, photos, capsys):
    model = tmp_path / "m.safetensors"
    save(model, "unet", num_downs=3, num_in_ch=1, num_out_ch=3, extra={"colours": "edges"})
    assert main(["validate", "--model", str(model), "--hr", str(photos), "--size", "32"]) == 2
    assert "needs images to start from; give --lr too" in capsys.readouterr().err


def test_the_table_for_people(tmp_path, pairs, capsys):
    model = tmp_path / "m.safetensors"
    save(model, "resnet", num_block=1)
    assert main(["validate", "--model", str(model), "--side-by-side", str(pairs["both"])]) == 0
    told = capsys.readouterr()
    names = [line.split()[0] for line in told.out.splitlines()]
    assert names == [*(f"photo_{n}" for n in range(6)), "mean", "input"]
    assert "lpips is omitted: AlexNet's weights are not on this disk" in told.err


def test_super_resolution_as_before(photos, capsys):
    table = said(capsys, "--model", "bicubic", "--scale", "2", "--hr", photos)
    assert list(table["mean"]) == ["psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb"]
    assert "input" not in table
    assert list(table["left_out"]) == ["lpips", "dists", "niqe"]
    if find_spec("basicsr") is not None:
        assert table["left_out"]["niqe"] == "6 of 6 images are too small for it"


# ---- several sets ----------------------------------------------------------------------------------------------------

METRICS = "--metrics", "psnr_y", "ssim_rgb"
BICUBIC = "--model", "bicubic", "--scale", "2", *METRICS


@pytest.fixture
def second(tmp_path: Path, photos: Path) -> Path:
    folder = tmp_path / "second, 'with' quotes"
    folder.mkdir()
    for number in range(2):
        shutil.copy(photos / f"photo_{number}.png", folder / f"ü {number}.png")
    return folder


def test_several_sets_are_each_measured_as_alone(photos, second, capsys):
    together = said(capsys, *BICUBIC, "--hr", photos, "--hr", second)
    assert list(together["sets"]) == ["photos", second.name]
    for folder in (photos, second):
        alone = said(capsys, *BICUBIC, "--hr", folder)
        assert together["sets"][folder.name] == {key: alone[key] for key in ("mean", "images")}
    assert main(["validate", *BICUBIC, "--hr", str(photos), "--hr", str(second)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("  ")[0] for row in rows] == [
        *("photos", *(f"photo_{n}" for n in range(6)), "mean"),
        *(second.name, "ü 0", "ü 1", "mean"),
    ]


def test_csv_has_a_row_for_each_image(tmp_path, photos, second, capsys):
    file = tmp_path / "new" / "scores.csv"
    table = said(capsys, *BICUBIC, "--hr", photos, "--hr", second, "--csv", file)
    with open(file, newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0]) == ["set", "image", "psnr_y", "ssim_rgb"]
    assert [(row["set"], row["image"]) for row in rows[-2:]] == [(second.name, "ü 0"), (second.name, "ü 1")]
    assert float(rows[-1]["psnr_y"]) == table["sets"][second.name]["images"]["ü 1"]["psnr_y"]
    assert len(rows) == 8


def test_an_image_too_small_for_a_metric_is_no_zero(tmp_path, photos, capsys, monkeypatch):
    from sr.evaluate import metrics

    def of_tall(output, target, *, border):
        return float("nan") if output.shape[1] < 48 else 1.0

    monkeypatch.setitem(metrics.METRICS, "tall", metrics.Metric(of_tall, 0))
    Image.open(photos / "photo_0.png").crop((0, 0, 56, 40)).save(photos / "photo_0.png")
    args = ["--model", "bicubic", "--scale", "2", "--metrics", "l1", "tall", "--hr", str(photos)]
    table = said(capsys, *args, "--csv", tmp_path / "scores.csv")
    assert table["mean"]["tall"] == 1
    assert "tall" not in table["images"]["photo_0"]
    assert table["left_out"] == {"tall": "1 of 6 images are too small for it"}
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].endswith(",")
    assert main(["validate", *args]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("tall         -")


def place(folder: Path, photos: Path, *, ending: str = "", scale: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(photos.iterdir())[:2]:
        with Image.open(path) as image:
            image.resize((56 // scale, 48 // scale)).save(folder / f"{path.stem}{ending}.png")


def test_the_usual_sets_are_found_as_they_are_handed_out(tmp_path, photos, capsys):
    root = tmp_path / "sets"
    place(root / "a_edsr" / "HR", photos)
    place(root / "a_edsr" / "LR_bicubic" / "X2", photos, ending="x2", scale=2)
    place(root / "a_edsr" / "LR_bicubic" / "X4", photos, ending="x4", scale=4)
    place(root / "b_basicsr" / "GTmod12", photos)
    place(root / "b_basicsr" / "LRbicx2", photos, scale=2)
    place(root / "c_selfexsr" / "image_SRF_2", photos, ending="_SRF_2_HR")
    place(root / "c_selfexsr" / "image_SRF_2", photos, ending="_SRF_2_LR", scale=2)
    place(root / "d_plain" / "hr", photos)
    place(root / "d_plain" / "lr", photos, scale=2)
    place(root / "e_images", photos)
    (root / "f_other").mkdir()
    found = {each.name: each for each in usual_sets(str(root), scale=2)}
    assert list(found) == ["a_edsr", "b_basicsr", "c_selfexsr", "d_plain", "e_images"]
    assert found["a_edsr"].lr[0] == root / "a_edsr" / "LR_bicubic" / "X2" / "photo_0x2.png"
    assert found["c_selfexsr"].lr[0].name == "photo_0_SRF_2_LR.png"
    assert found["e_images"].lr is None
    table = said(capsys, *BICUBIC, "--sets", root)
    same = [table["sets"][name]["mean"] for name in found if name != "e_images"]
    assert all(each == same[0] for each in same)
    one = said(capsys, *BICUBIC, "--sets", root / "a_edsr")
    assert one["mean"] == same[0]
    assert said(capsys, "--model", "bicubic", "--scale", "4", *METRICS, "--sets", root / "a_edsr")["mean"] != same[0]


def test_sets_are_called_by_their_folders():
    assert set_names(["data/Set5/HR", "data/Set14/GTmod12/"]) == ["Set5", "Set14"]
    assert set_names(["a/Set5/hr", "b/Set5/hr", "x/*.png"]) == ["a/Set5/hr", "b/Set5/hr", ".png"]
    assert set_names(["hr"]) == ["hr"]


# ---- outputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "_x2", "_out", "x2"])
def test_outputs_are_measured_as_the_model_that_made_them(tmp_path, photos, capsys, suffix):
    """What `sr upscale` writes is 8 bit, as the values that are measured are."""
    low, out = tmp_path / "low", tmp_path / "out"
    low.mkdir()
    for path in photos.iterdir():
        Image.open(path).resize((28, 24), Image.Resampling.BICUBIC).save(low / path.name)
    assert main(["upscale", str(low), "-o", str(out), "-m", "bicubic", "--scale", "2", "--suffix", suffix]) == 0
    capsys.readouterr()
    by_model = said(capsys, *BICUBIC, "--hr", photos, "--lr", low)
    by_file = said(capsys, "--outputs", out, "--hr", photos, "--scale", "2", *METRICS)
    for name, scores in by_model["images"].items():
        assert by_file["images"][name] == pytest.approx(scores, rel=1e-9)
    assert by_file["outputs"] == [str(out)]


def test_an_output_goes_with_the_longest_name_and_hr_loses_what_it_lacks(tmp_path, photos, capsys):
    hr, out = tmp_path / "hr", tmp_path / "out"
    hr.mkdir(), out.mkdir()
    for name, source in (("img", 0), ("img_1", 1), ("img_10", 2)):
        shutil.copy(photos / f"photo_{source}.png", hr / f"{name}.png")
        Image.open(photos / f"photo_{source}.png").crop((0, 0, 56, 47)).save(out / f"{name}_big.png")
    table = said(capsys, "--outputs", out, "--hr", hr, "--scale", "2", "--metrics", "l1")
    assert table["images"] == {name: {"l1": 0.0} for name in ("img", "img_1", "img_10")}
    shutil.copy(out / "img_1_big.png", out / "img_1_again.png")
    assert main(["validate", "--outputs", str(out), "--hr", str(hr), "--scale", "2"]) == 2
    told = capsys.readouterr().err
    assert "img_1_again.png and " in told
    assert "give it one output of its name" in told
    shutil.rmtree(out)
    shutil.copytree(photos, out)
    assert main(["validate", "--outputs", str(out), "--hr", str(hr), "--scale", "2"]) == 2
    assert "matches none of 6 images" in capsys.readouterr().err


# ---- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.distributed
def test_two_processes_measure_as_one(tmp_path, photos, second, capsys):
    args = ["validate", *BICUBIC, "--hr", str(photos), "--hr", str(second), "--json"]
    assert main([*args, "--csv", str(tmp_path / "one.csv")]) == 0
    alone = capsys.readouterr().out
    done = sr(*args, "--csv", tmp_path / "two.csv", launcher=TWO, **ON_CPU)
    assert done.returncode == 0, done.stderr
    assert done.stdout == alone
    assert (tmp_path / "two.csv").read_text() == (tmp_path / "one.csv").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--hr", "x", "--a", "y"], "in one way"),
        (["--a", "x"], "in one way"),
        (["--lr", "x"], "in one way"),
        ([], "in one way"),
        (["--hr", "PHOTOS"], "needs images to start from"),
        (["--hr", "PHOTOS", "--lr", "PHOTOS", "--size", "32"], "--size is for --a and --b"),
        (["--side-by-side", "PHOTOS", "--metrics", "ssim"], "no metric 'ssim'"),
        (["--side-by-side", "PHOTOS", "--sheet", "x.gif"], "cannot write that"),
        (["--side-by-side", "PHOTOS", "--scale", "4"], "upscales by 1, not 4"),
        (["--hr", "PHOTOS", "--hr", "PHOTOS", "--lr", "PHOTOS"], "--lr is given 1 times and --hr 2 times"),
        (["--sets", "PHOTOS", "--hr", "PHOTOS"], "in one way"),
        (["--outputs", "PHOTOS", "--hr", "PHOTOS"], "measured without a model; leave out --model"),
        (["--model", "bicubic", "--scale", "2", "--sets", "nowhere"], "no such folder"),
        (["--model", "bicubic", "--scale", "2", "--sets", "PHOTOS", "--sets", "PHOTOS", "--sheet", "x.png"], "2; give"),
        (["--model", "bicubic", "--scale", "2", "--a", "PHOTOS", "--b", "PHOTOS"], "bicubic x2 upscales; give --hr"),
        (["--model", "lab.safetensors", "--a", "PHOTOS", "--b", "PHOTOS"], "give them with --hr"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_user_errors_are_one_sentence(tmp_path, photos, capsys, given, message):
    save(tmp_path / "m.safetensors", "resnet", num_block=1)
    save(tmp_path / "lab.safetensors", "resnet", num_block=1, num_in_ch=1, num_out_ch=2, extra={"colours": "lab"})
    args = [str(photos) if a == "PHOTOS" else str(tmp_path / a) if a.endswith(".safetensors") else a for a in given]
    model = [] if "--model" in args else ["--model", str(tmp_path / "m.safetensors")]
    assert main(["validate", *model, *args]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_pairs_of_different_size_name_the_image(tmp_path, photos):
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
    (pairs["both"] / "photo_0.png").write_bytes(b"no image")
    out = tmp_path / "out"
    args = ["translate", str(pairs["both"]), "-o", str(out), "-m", str(tmp_path / "m.safetensors"), "--side-by-side"]
    assert main(args) == 1
    told = capsys.readouterr()
    assert "5 image(s) written" in told.out
    assert "photo_0.png: not an image" in told.err
    assert {Image.open(path).size for path in out.glob("*.png")} == {(56, 48)}
    assert main([*args, "--direction", "a_to_b", "--suffix", "_a"]) == 1
    taken = [np.asarray(Image.open(out / name)).astype(int) for name in ("photo_1.png", "photo_1_a.png")]
    assert np.abs(taken[0] - taken[1]).max() > 10, "the other half was taken"
    assert main(["upscale", str(pairs["a"]), "-o", str(tmp_path / "up"), "-m", str(tmp_path / "m.safetensors")]) == 0
    with pytest.raises(UserError, match="in one way"):
        Images().check()
