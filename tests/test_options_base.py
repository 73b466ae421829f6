"""`base:` in an options file: inheritance from recipes and files, removal by null, places of errors, loops."""

import re
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from sr.cli import main
from sr.config.base import read
from sr.config.json_schema import schema
from sr.config.options import Options
from sr.config.yaml_source import with_origins
from sr.core.errors import UserError
from sr.train.builder import TABLES, load
from tests.helpers.program import ROOT

Recipe = Callable[..., Path]


@pytest.fixture
def child(recipe: Recipe) -> Callable[[str], Path]:
    """Write a file next to the options file `base.yml`."""
    base = recipe()
    base.rename(base.parent / "base.yml")

    def write(text: str, name: str = "child.yml") -> Path:
        (base.parent / name).write_text(text)
        return base.parent / name

    return write


def problem(file: Path, *sets: str) -> str:
    with pytest.raises(UserError) as caught:
        load(file, sets)
    return str(caught.value)


def test_mappings_are_merged_and_the_rest_is_replaced(child: Callable[[str], Path], tmp_path: Path) -> None:
    file = child(
        "base: base.yml\nname: child\ngenerator: {num_feat: 16}\ndiscriminator: {type: patchgan}\n"
        "losses: {pixel: null, ssim: {}, gan: {weight: 0.5}}\ndegrade: [{type: downscale}]\ntrain: {total_steps: 9}\n"
    )
    options = load(file, ["train.ema_decay=0.8", "losses.l1={}", "losses.ssim=null"])
    assert options.generator == {"type": "rrdbnet", "num_feat": 16, "num_block": 1, "num_grow_ch": 4}
    assert options.discriminator == {"type": "patchgan"}  # another type keeps no key of the base
    assert options.losses.gan == {"type": "vanilla", "weight": 0.5}
    assert list(options.losses.reconstruction) == ["l1"]
    assert options.degrade == [{"type": "downscale"}]
    assert (options.name, options.train.total_steps, options.train.ema_decay) == ("child", 9, 0.8)
    child(f"base: {file.name}\nname: grandchild\n", "grandchild.yml")
    assert load(tmp_path / "grandchild.yml").generator == options.generator
    assert read(tmp_path / "grandchild.yml").files == tuple(
        str(tmp_path / name) for name in ("grandchild.yml", "child.yml", "base.yml")
    )


def test_the_check_prints_where_each_value_was_written(
    child: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = child("base: base.yml\ngenerator:\n  num_feat: 16\n")
    assert main(["check", str(file), "--set", "losses.gan={type: hinge}"]) == 0
    lines = {line.strip() for line in capsys.readouterr().out.splitlines()}
    assert {f"num_feat: 16  # {file}:3", "type: hinge  # --set losses.gan", "switch_ema: 0"} <= lines
    assert any(re.fullmatch(rf"num_block: 1  # {tmp_path}/base.yml:\d+", line) for line in lines)


def test_values_with_their_origins_are_still_yaml(child: Callable[..., Path]) -> None:
    pipe = "pipe:cat " + "a/long/name " * 20 + "x.tar"
    file = child(f"base: base.yml\ndata:\n  source: {{type: shards, path: {pipe!r}}}\nname: run\n", "lr=1.yml")
    document = read(file)
    text = with_origins(document.values, document)
    assert yaml.safe_load(text) == document.values
    assert f"name: run  # {file}:4" in text.splitlines()


def test_errors_name_the_file_in_which_the_key_stands(child: Callable[[str], Path], tmp_path: Path) -> None:
    base = tmp_path / "base.yml"
    base.write_text(base.read_text() + "wrong: 1\n")
    line = len(base.read_text().splitlines())
    file = child("base: base.yml\n\ntrain: {total_stepz: 3}\n")
    assert f"{base}:{line}  wrong: " in problem(file)
    assert f"{file}:3  train.total_stepz: " in problem(file)
    assert "wrong" not in problem(child("base: base.yml\nwrong: null\ntrain: {x: 3}\n"))
    assert f"{file}:2  wrog: the base has none to remove. Did you mean 'wrong'?" in problem(
        child("base: base.yml\nwrog: null\n")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: child.yml\n", ":1  base: child.yml leads back to itself; remove one `base`"),
        ("base: other.yml\n", "other.yml:1  base: child.yml leads back to itself"),
        ("base: realesrgan\n", ":1  base: there is no recipe and no file 'realesrgan'. Did you mean 'realesrgan_x"),
        ("name: x\nbase: zzz.yml\n", ":2  base: there is no recipe and no file 'zzz.yml'. Give a recipe"),
        ("base: [a, b]\n", ":1  base: is not a name; give a recipe"),
    ],
)
def test_a_base_that_cannot_be_used(child: Callable[..., Path], text: str, message: str) -> None:
    child("base: child.yml\n", "other.yml")
    assert message in problem(child(text))


def test_a_recipe_as_base(tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text("base: realesrgan_x4\nlosses: {perceptual: null}\nname: without\n")
    options = load(tmp_path / "x.yml")
    assert (options.name, list(options.losses.reconstruction), len(options.degrade)) == ("without", ["pixel"], 9)


def test_the_degradation_of_real_esrgan_is_written_once() -> None:
    assert [f.stem for f in (ROOT / "options").glob("*.yml") if "poisson_scale: [0.05, 2.5]" in f.read_text()] == [
        "realesrnet_x4"
    ]


def test_the_schema_knows_base(tmp_path: Path) -> None:
    validator = jsonschema.Draft202012Validator(schema(Options, TABLES))
    assert validator.is_valid({"base": "x", "generator": {"num_feat": 3}, "train": {"compile": True}})
    assert not validator.is_valid({"generator": {"type": "rrdbnet"}})
    assert not validator.is_valid({"base": "x", "generator": {"type": "rrdbnet", "num_feet": 3}})
    assert not validator.is_valid({"base": "x", "train": {"compil": True}})
