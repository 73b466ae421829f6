"""The generated reference pages describe every option, part, verb and public name."""

import argparse
import re

import pytest
from reference import PAGES, RETURNED, described, meaning, on_page_markdown, option_sections, parameters, verbs

import sr
from sr.config import registry
from sr.evaluate.metrics import METRICS
from sr.train.builder import TABLES
from tests.helpers.program import ROOT


def test_every_option_is_described() -> None:
    rows = [(name, row) for name, _, section in option_sections() for row in section]
    assert not [row[0] for _, row in rows if len(row[3]) < 10]
    page = PAGES["options"]()
    for key in (
        "`name`",
        "`data.make.per_shard`",
        "`train.channels_last`",
        "`validation.sets.NAME.hr`",
        "`init.PLAYER.file`",
    ):
        assert f"| {key} |" in page
    assert len(rows) == len({row[0] for _, row in rows}) > 50


def test_every_part_and_parameter_is_described() -> None:
    page = PAGES["parts"]()
    for name, table in TABLES.items():
        section = page.split(f"\n## {name}\n")[-1].split("\n## ")[0]
        for kind, factory in table.rows.items():
            assert f"### `{kind}`\n" in section
            model = None if "*" in kind else registry.model_of(factory, table.left_out(factory))
            fields = [row[0] for row in parameters(model)] if model else []
            text, own = described(factory, fields)
            assert len(text) > 10, f"{kind} has no docstring"
            for key in fields:
                meaning(key, text, own)  # raises KeyError where there is none
    assert all(f"| `{metric}` |" in page for metric in METRICS)


def test_every_verb_and_flag_is_listed() -> None:
    page = PAGES["cli"]()
    for name, parser in verbs().items():
        section = page.split(f"## sr {name}\n")[1].split("\n## ")[0]
        for action in parser._actions:
            if action.help != argparse.SUPPRESS and action.option_strings != ["-h", "--help"]:
                assert all(f"`{flag}" in section for flag in action.option_strings), f"sr {name}: {action}"


def test_every_public_name_is_on_the_page_of_the_interface() -> None:
    listed = re.findall(r"^::: [\w.]+\.(\w+)$", PAGES["api"](), re.MULTILINE)
    assert listed[: -len(RETURNED)] == [name for name in sr.__all__ if not name.startswith("_")]


@pytest.mark.parametrize("name", PAGES)
def test_each_mark_is_on_a_page(name: str) -> None:
    text = (ROOT / "docs" / "reference" / f"{name}.md").read_text()
    assert f"<!-- generated: {name} -->" in text
    assert "<!-- generated" not in on_page_markdown(text)
