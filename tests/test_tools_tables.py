"""docs/reference/parts.md is up to date."""

import re

import pytest
from make_tables import FILE, PLACES, main

from sr.train.builder import TABLES

pytestmark = pytest.mark.tools


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_every_type_has_a_row_with_a_summary() -> None:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    assert PLACES.keys() == TABLES.keys()
    for name, table in TABLES.items():
        start = lines.index(f"## {name}")
        section = lines[start : next((n for n in range(start + 1, len(lines)) if lines[n].startswith("## ")), None)]
        for kind in table.rows:
            rows = [line for line in section if line.startswith(f"| `{kind}` |")]
            assert len(rows) == 1
            assert len(re.split(r"(?<!\\)\|", rows[0])[-2]) > 10, f"{kind} has no summary"
