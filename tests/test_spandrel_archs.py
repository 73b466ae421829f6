"""Every architecture of spandrel: trains, and its file gives the same output in sr and in spandrel."""

from pathlib import Path

import architectures
import pytest

from sr.config.json_schema import schema
from sr.config.options import Options
from sr.core.errors import UserError
from sr.nets.spandrel_archs import ARCHITECTURES, spandrel_arch
from sr.train.builder import TABLES

FAST = ("SPAN", "RealPLKSR", "DAT", "RCAN")
GUESSED = {"ATD", "GRL"}
"""spandrel opens the tiny networks of these with other hyper-parameters, or not at all."""


def works(name: str, scale: int, folder: Path) -> None:
    found = architectures.examine(name, scale, folder, onnx=False)
    assert (found.trains, found.upscales) == ("", "")
    if name not in GUESSED:
        assert found.spandrel == ""


@pytest.mark.parametrize("name", FAST)
def test_usual_ones_train_and_open_again(name: str, tmp_path: Path) -> None:
    works(name, 4, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES])
def test_all_train_and_open_again(name: str, tmp_path: Path) -> None:
    known = architectures.scales(name)
    assert known
    for scale in {2, 4}.intersection(known) or known[:1]:
        works(name, scale, tmp_path)


def test_wrong_scales_and_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"spandrel.SwiftSRGAN upscales by 1 or 2 or 4 or 8 only, but scale is 3"):
        spandrel_arch("SwiftSRGAN")(scale=3)
    with pytest.raises(UserError, match=r"spandrel.NAFNet does not upscale, but scale is 2; set scale: 1"):
        spandrel_arch("NAFNet")(scale=2)
    with pytest.raises(UserError, match=r"spandrel.SPAM does not exist.*Did you mean 'SPAN'"):
        spandrel_arch("SPAM")
    with pytest.raises(UserError, match=r"spandrel.LaMa is not supported: it needs a mask"):
        spandrel_arch("LaMa")


def test_the_schema_lists_all() -> None:
    rows = schema(Options, TABLES)["$defs"]["part.generators"]["anyOf"]
    rows = [row["properties"] for row in rows if "properties" in row]
    listed = {row["type"].get("const"): row for row in rows}
    assert {f"spandrel.{name}" for name in ARCHITECTURES} < set(listed)
    assert listed["spandrel.HAT"]["window_size"]["default"] == 16
    assert "norm_layer" not in listed["spandrel.HAT"]
