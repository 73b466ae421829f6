"""Recipes by name: `sr recipes`, `sr init`, and option files that need no path."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from sr import cli
from sr.config import recipes
from sr.core.errors import UserError
from sr.train.builder import load


def test_every_recipe_has_a_summary() -> None:
    assert {"quickstart", "realesrgan_x4", "cyclegan"} <= set(recipes.names())
    assert all(len(recipes.summary(name)) > 10 for name in recipes.names())


def test_a_recipe_by_name_and_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("quickstart").name == "quickstart"
    Path("quickstart").write_text(recipes.locate("quickstart").read_text().replace("name: quickstart", "name: mine"))
    assert load("quickstart").name == "mine"  # an existing file wins


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no recipe 'quikstart'\. Did you mean 'quickstart'"):
        recipes.locate("quikstart")
    with pytest.raises(UserError, match="Run `sr recipes`"):
        recipes.locate("zzz")
    assert recipes.locate("missing/file.yml") == Path("missing/file.yml")


def test_list_and_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["recipes"]) == 0
    assert "realesrgan_x4 " in capsys.readouterr().out
    assert cli.main(["init", "rrdb_small_x4"]) == 0
    assert load("rrdb_small_x4.yml").scale == 4
    first, *rest = Path("rrdb_small_x4.yml").read_text().splitlines()
    assert first == "# yaml-language-server: $schema=sr.schema.json"
    assert rest == recipes.locate("rrdb_small_x4").read_text().splitlines()
    validator = jsonschema.Draft202012Validator(json.loads(Path("sr.schema.json").read_text()))
    assert validator.is_valid(yaml.safe_load(recipes.locate("quickstart").read_text().replace("1e-", "1.0e-")))
    assert cli.main(["init", "rrdb_small_x4"]) == 2
    assert "exists already; give another name with -o" in capsys.readouterr().err
