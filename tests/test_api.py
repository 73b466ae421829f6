"""The Python interface: `sr.load`, `sr.upscale`, `sr.train` and `sr.evaluate`."""

import doctest
import inspect
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import sr
from sr.core.errors import UserError
from sr.images import bicubic
from tests.helpers import models
from tests.helpers.program import ROOT


@pytest.fixture(scope="module")
def model() -> "sr.inference.api.ImageModel":  # type: ignore[name-defined]
    return sr.load("bicubic", scale=2, device="cpu")


def test_import_is_light() -> None:
    code = "import sys, sr; assert 'torch' not in sys.modules; assert sr.__version__"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sr.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_pil_images(model, mode: str) -> None:
    image = Image.effect_mandelbrot((12, 8), (-2, -1.2, 1, 1.2), 50).convert("RGB").convert(mode)
    made = model(image)
    assert made.size == (24, 16)
    assert made.mode == {"P": "RGB", "1": "RGB"}.get(mode, mode)


@pytest.mark.parametrize(("shape", "dtype"), [((5, 7), "uint8"), ((5, 7, 3), "uint8"), ((5, 7, 4), "uint16")])
def test_arrays(model, shape: tuple[int, ...], dtype: str) -> None:
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    made = model(image)
    assert made.dtype == dtype
    assert made.shape == (10, 14, *shape[2:])
    whole = torch.from_numpy(np.atleast_3d(image).astype(np.float32)).permute(2, 0, 1)[None]
    expected = bicubic.resize(whole, scale=2)[0].permute(1, 2, 0).clamp(0, np.iinfo(dtype).max).numpy()
    assert np.abs(np.atleast_3d(made)[..., :3].astype(float) - expected[..., :3]).max() < 1


def test_16_bit_pil_images_keep_their_depth(model) -> None:
    pixels = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    for image in (Image.fromarray(pixels), Image.frombytes("I;16B", (8, 6), pixels.astype(">u2").tobytes())):
        assert np.array_equal(np.asarray(model(image)), model(pixels))
    with pytest.raises(ValueError, match="mode F has no known white; pass a uint8"):
        model(Image.fromarray(pixels.astype(np.float32)))


def test_tensors(model) -> None:
    batch = torch.rand(2, 3, 6, 5, dtype=torch.float64)
    made = model(batch)
    assert made.shape == (2, 3, 12, 10)
    assert made.dtype == torch.float64
    assert torch.equal(model(batch[0]), made[0])
    assert model(batch[0, :1]).shape == (1, 12, 10)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3)), np.zeros((4, 4, 5), np.uint8), torch.zeros(2, 4, 4)])
def test_what_is_no_image(model, wrong: object) -> None:
    with pytest.raises(ValueError, match="is not an image; pass"):
        model(wrong)
    with pytest.raises(TypeError, match="list is not an image; pass a PIL image"):
        model([wrong])


def test_files(photos: Path, tmp_path: Path) -> None:
    report = sr.upscale(photos, tmp_path / "out", model="bicubic", scale=2, device="cpu")
    assert len(report.written) == 6
    assert Image.open(tmp_path / "out" / "photo_0.png").size == (112, 96)
    with pytest.raises(UserError, match="no_such"):
        sr.load(tmp_path / "no_such.pth")


# ---- sr.train and sr.evaluate ----------------------------------------------------------------------------------------


def test_the_packages_can_be_called() -> None:
    """Also after a module of theirs was imported, which sets the attribute of `sr` to the package."""
    import sr.evaluate.score
    import sr.train.trainer

    assert isinstance(sr.train, types.ModuleType)
    assert "recipe" in inspect.signature(sr.train).parameters
    assert "hr" in inspect.signature(sr.evaluate).parameters


def test_training(recipe: Callable[..., Path], tmp_path: Path, photos: Path) -> None:
    """Overrides of all forms; the result names the best model and its scores; a resumed run returns them again."""
    file = recipe(validation={"every": 1, "sets": {"own": {"hr": str(photos)}}})
    how = {"overrides": {"train.total_steps": 2, "losses.pixel.weight": 1e-7}, "name": "api", "save": {"every": 1}}
    result = sr.train(file, **how)
    assert result.folder == tmp_path / "runs" / "api"
    assert result.model == result.folder / "models" / "net_g_2.safetensors"
    assert result.best is not None
    assert result.best.exists()
    assert result.metrics["own"]["psnr_y"] > 5
    written = yaml.safe_load((result.folder / "options.yml").read_text())
    assert written["losses"]["pixel"]["weight"] == 1e-7
    assert written["save"] == written["save"] | {"every": 1, "keep": 3}
    assert sr.train(file, **how) == result
    with pytest.raises(UserError, match=r"total_step.*Did you mean 'total_steps'"):
        sr.train(file, train={"total_step": 2})


def test_evaluation(photos: Path, tmp_path: Path) -> None:
    results = sr.evaluate("bicubic", scale=2, hr=photos, metrics=["psnr_y"], sheet=tmp_path / "sheet.png", rows=1)
    assert results.scale == 2
    assert len(results.rows) == 6
    assert results.means["photos"]["psnr_y"] == pytest.approx(np.mean([row.scores["psnr_y"] for row in results.rows]))
    assert (tmp_path / "sheet.png").exists()
    with pytest.raises(UserError, match="name the images in one way"):
        sr.evaluate("bicubic", scale=2)


@pytest.mark.parametrize("function", ["sr.train.api.train", "sr.evaluate.api.evaluate", "sr.inference.api.load"])
def test_examples_in_docstrings(
    function: str, recipe: Callable[..., Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = function.rpartition(".")
    recipe(name="options", out="runs")
    photos.rename(tmp_path / "Set5")
    shutil.copy(tmp_path / "Set5" / "photo_0.png", tmp_path / "photo.png")
    (tmp_path / "options.yml").write_text((tmp_path / "options.yml").read_text().replace(str(photos), "Set5"))
    models.saved(tmp_path / "net_g_best.safetensors", "compact", scale=2)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    examples = doctest.DocTestParser().get_examples(getattr(import_module(module), name).__doc__)
    assert examples
    for example in examples:
        if example.want:
            assert repr(eval(example.source, names)) == example.want.strip()
        else:
            exec(example.source, names)
