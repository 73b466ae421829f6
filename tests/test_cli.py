"""The verbs as a user types them: files, output and exit codes."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import spandrel
import torch
from PIL import Image

from sr.cli import main, parser
from sr.core import progress
from sr.nets.io.load import open_model
from tests.helpers.program import sr


def test_shard_train_validate_upscale(photos: Path, recipe: Callable[..., Path], tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    assert main(["shard", str(photos), str(shards), "--size", "40", "--step", "16", "--workers", "1"]) == 0
    assert json.loads((shards / "index.json").read_text())
    file = recipe(data__source={"type": "shards", "path": str(shards)})
    assert main(["train", str(file)]) == 0
    model = tmp_path / "runs" / "tiny" / "models" / "net_g_4.safetensors"
    out = tmp_path / "large"
    assert main(["upscale", str(photos), "-o", str(out), "-m", str(model)]) == 0
    assert {Image.open(path).size for path in out.glob("*.png")} == {(112, 96)}
    assert main(["validate", "--model", str(model), "--hr", str(photos), "--json"]) == 0


def test_what_training_leaves_opens_in_spandrel(recipe: Callable[..., Path], tmp_path: Path) -> None:
    assert main(["train", str(recipe(generator__num_grow_ch=32))]) == 0
    file = tmp_path / "runs" / "tiny" / "models" / "net_g_4.safetensors"
    theirs, ours = spandrel.ModelLoader().load_from_file(file), open_model(file)
    lq = torch.rand(1, 3, 16, 16)  # no side that either of them pads
    with torch.no_grad():
        assert torch.allclose(theirs(lq), ours.net(lq).clamp(0, 1), atol=1e-5)
    assert theirs.scale == 2


def test_upscale_lists_what_failed_and_exits_1(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "photo_2.png").write_bytes(b"no image")
    assert main(["upscale", str(photos), "-o", str(tmp_path / "out"), "-m", "bicubic", "--scale", "2"]) == 1
    said = capsys.readouterr()
    assert "photo_2.png" in said.err
    assert "5 image(s) written" in said.out
    assert len(list((tmp_path / "out").glob("*.png"))) == 5


def test_validate_prints_strict_json(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in photos.iterdir():
        Image.fromarray(np.full((48, 56, 3), 128, np.uint8)).save(path)  # flat: bicubic is exact, PSNR infinite
    assert main(["validate", "--model", "bicubic", "--hr", str(photos), "--scale", "4", "--json"]) == 0
    table = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert table["mean"]["psnr_y"] is None
    assert table["mean"]["ssim_y"] == pytest.approx(1.0)
    assert len(table["images"]) == 6


def test_degrade_writes_what_the_network_sees(photos: Path, recipe: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "seen"
    assert main(["degrade", str(photos), str(out), "--options", str(recipe())]) == 0
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert {Image.open(path).size for path in out.iterdir()} == {(28, 24)}
    assert main(["degrade", str(photos), str(out), "--options", str(recipe())]) == 0
    assert first == {path.name: path.read_bytes() for path in out.iterdir()}


UPSCALE = "upscale", ".", "-o", "x", "-m", "bicubic", "--scale", "2"


@pytest.mark.parametrize(
    "args",
    [
        ["train", "nowhere.yml"],
        ["upscale", "nowhere", "-o", "x", "-m", "bicubic", "--scale", "2"],
        ["upscale", ".", "-o", "x", "-m", "nowhere.pth"],
        ["upscale", ".", "-o", "x", "-m", "bicubic"],
        ["upscale", ".", "-o", "x", "-m", "bicubic", "--scale", "2", "--device", "cuda:77"],
        ["validate", "--model", "bicubic", "--hr", "nowhere", "--scale", "4"],
        ["shard", "nowhere", "x"],
        ["degrade", "nowhere", "x", "--options", "options/quickstart.yml"],
        [*UPSCALE, "--outscale", "0"],
        [*UPSCALE, "--outscale", "nan"],
        [*UPSCALE, "--outscale", "inf"],
        [*UPSCALE, "--outscale", "17"],
        [*UPSCALE, "--tile", "-1"],
        [*UPSCALE, "--tile", "x"],
        [*UPSCALE, "--overlap", "-3"],
        [*UPSCALE, "--quality", "0"],
        [*UPSCALE, "--quality", "101"],
        [*UPSCALE, "--crf", "52"],
        [*UPSCALE, "--max-pixels", "0"],
        [*UPSCALE, "--device", "foo"],
        [*UPSCALE, "--device", "meta"],
        [*UPSCALE, "--format", "gif"],
        [*UPSCALE, "--suffix", "a/b"],
        [*UPSCALE, "--suffix", "/x4"],
        [*UPSCALE, "--scale", "0"],
        [*UPSCALE, "--scale", "-2"],
        [*UPSCALE, "--scale", "100"],
        [*UPSCALE, "--scale", "2.5"],
        [*UPSCALE, "--nothing"],
        [*UPSCALE, "-o", ""],
        ["upscale", "", "-o", "x", "-m", "bicubic", "--scale", "2"],
        ["upscale", ".", "-o", "image.png/x", "-m", "bicubic", "--scale", "2"],
        ["upscale", "image.png", "-o", "x.xyz", "-m", "bicubic", "--scale", "2"],
        ["upscale", "@image.png", "-o", "x", "-m", "bicubic", "--scale", "2"],
        ["upscale", ".", "-o", "x", "-m", ""],
        ["translate", ".", "-o", "x", "-m", "m.pth", "--size", "0"],
        ["translate", ".", "-o", "x", "-m", "m.pth", "--size", "9999999"],
        ["validate", "--model", "bicubic", "--hr", "", "--scale", "4"],
        ["validate", "--model", "bicubic", "--hr", ".", "--scale", "100"],
        ["report", ".", "-o", "x.html", "--embed", "nan"],
        ["report", ".", "-o", "x.html", "--scale", "0"],
        ["export", "m.pth", "-o", "x.onnx", "--opset", "1"],
        ["shard", ".", ""],
        *(["shard", ".", "x", *wrong.split()] for wrong in ("--quality 0", "--step 0", "--workers 0", "--scale 0")),
        ["up"],
        [],
    ],
    ids=" ".join,
)
def test_a_user_error_is_one_sentence(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.helpers.program import ROOT

    args = [str(ROOT / a) if a.startswith("options/") else a for a in args]
    (tmp_path / "image.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.startswith("sr: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_the_program_starts_without_basicsr() -> None:
    import subprocess
    import sys

    code = "import sys; sys.modules['basicsr'] = None; import sr.cli, sr.train.run"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_help_names_every_verb() -> None:
    said = sr("--help").stdout
    for verb in ("train", "upscale", "translate", "validate", "shard", "degrade", "check", "schema"):
        assert verb in said


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["upscal", "."], "there is no 'upscal'. Did you mean 'upscale'? See sr --help"),
        (["up"], "Did you mean 'upscale'?"),
        (["upscale", ".", "--ouput", "x"], "there is no flag --ouput. Did you mean '--output'? See sr upscale --help"),
        (["upscale", ".", "-o", "x", "--tiel=3"], "'--tile'?"),
        (["upscale", ".", "-x", "3"], "there is no flag -x; see sr upscale --help"),
        (["upscale", ".", "-o", "x", "--format", "pgn"], "there is no 'pgn'. Did you mean 'png'?"),
    ],
)
def test_a_wrong_word_gets_the_nearest(args: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    assert hint in capsys.readouterr().err


def test_flags_of_real_esrgan() -> None:
    command = "upscale -i a b -o x -n net.pth -s 2.5 -t 64 --fp32 --suffix _x4"
    given = parser().parse_args(shlex.split(command))
    assert (given.more, given.output, given.model, given.outscale) == (["a", "b"], "x", "net.pth", 2.5)
    assert (given.tile, given.precision) == (64, "fp32")


def test_every_verb_has_an_example_that_parses() -> None:
    verbs = next(iter(parser()._subparsers._group_actions)).choices  # type: ignore[union-attr]
    for name, verb in verbs.items():  # type: ignore[union-attr]
        command = verb.epilog.removeprefix("example: sr ").partition(" >")[0].split()
        assert parser().parse_args(command).verb == name
        assert {"--quiet", "--verbose"} <= set(verb._option_string_actions)


def test_json_and_quiet(photos: Path, recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    bicubic = ["upscale", str(photos), "-m", "bicubic", "--scale", "2", "-o"]
    assert main([*bicubic, str(photos.parent / "a"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert [len(made[key]) for key in ("written", "kept", "failed", "damaged", "notes", "skipped")] == [6, *[0] * 5]
    assert (made["way"], made["seconds"] > 0) == ("cpu, fp32, whole images", True)
    assert main([*bicubic, str(photos.parent / "c"), "--tile", "32", "--overlap", "8"]) == 0
    assert re.search(r"\d s, \d+\.\d+ s per image \(cpu, fp32, tiles of 32 x 32 pixels\)", capsys.readouterr().out)
    assert main([*bicubic, str(photos.parent / "b"), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["check", str(recipe()), "--json", "--quiet"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["options"]["generator"]["type"] == "rrdbnet"
    assert checked["parameters"]["generator"] > 1000
    assert main(["recipes", "--json"]) == 0
    assert "quickstart" in json.loads(capsys.readouterr().out)
    assert main(["check", "nowhere.yml", "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_progress_in_a_log_is_a_line_per_interval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(progress.progress(range(5), desc="short", unit="image")) == [*range(5)]
    assert capsys.readouterr().err == ""  # over before the first minute
    monkeypatch.setattr(progress, "LOG_SECONDS", 1e-6)
    assert list(progress.progress(range(5), desc="long", unit="image")) == [*range(5)]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("sr: long: 1 of 5, ")
    assert all("\r" not in line and "|" not in line for line in lines)


def test_home_and_variables_in_every_path(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `--output=~/out`, which a shell passes on unchanged."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", str(tmp_path / "made"))
    command = ["upscale", f"~/{photos.name}", "-m", "bicubic", "--scale", "2"]
    assert main([*command, "--output=~/out"]) == 0
    assert main([*command, "-o", "$PLACE/large"]) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == len(list((tmp_path / "made/large").glob("*.png"))) == 6
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$PLACE").mkdir()
    assert main([*command, "-o", "$PLACE"]) == 0  # a folder of that name
    assert len(list((tmp_path / "$PLACE").glob("*.png"))) == 6
