"""`sr init --full`: every option of a recipe, with comments, and the same run."""

import inspect
import re
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel

from sr.cli import main
from sr.config import recipes
from sr.config.options import Options, Section
from sr.config.template import template
from sr.train.builder import TABLES, Builder, load


def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    """All sections of the options."""

    def inside(kind: typing.Any) -> set[typing.Any]:
        return {kind}.union(*(inside(part) for part in typing.get_args(kind)))

    found = set().union(*(inside(info.annotation) for info in model.model_fields.values()))
    found = {kind for kind in found if inspect.isclass(kind) and issubclass(kind, Section)}
    return found.union(*(sections(kind) for kind in found))


@pytest.mark.parametrize("name", recipes.names())
def test_the_full_file_is_the_same_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "full.yml").write_text(template(load(name), TABLES))
    assert Builder(load(tmp_path / "full.yml")).filled() == Builder(load(name)).filled()


def test_every_option_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SR_HOME", str(tmp_path / "home"))
    assert main(["init", "quickstart", "--full", "-o", "mine.yml"]) == 0
    text = Path("mine.yml").read_text()
    listed = set(re.findall(r"^ *(?:# )?(\w+):", text, re.MULTILINE))
    absent = {
        name for name in sections(Options) if name.__name__ in ("Cycle", "InitFile")
    }  # of other tasks; of one file
    for section in {Options, *sections(Options)} - absent:
        assert set(section.model_fields) <= listed, section
    assert "  # Optimizer steps of the run.\n  total_steps: 1000\n" in text
