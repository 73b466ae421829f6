"""The table of data sources: every kind opens, and resumes exactly on two ranks."""

import sys

import foreign_sets
import pytest


@pytest.mark.tools
def test_every_source_opens_and_resumes_exactly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for package in ("pyarrow", "lmdb", "aiohttp"):
        pytest.importorskip(package)
    given = "--shards 20 --samples 3 --side 32 --steps 6 --block-mb 0.006"
    monkeypatch.setattr(sys, "argv", ["foreign_sets.py", *given.split()])
    monkeypatch.setattr(foreign_sets.scan, "BLOCK", foreign_sets.scan.BLOCK)
    monkeypatch.setenv("NO_PROXY", "*")
    foreign_sets.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " | yes | " in line]
    assert len(rows) == 13
    assert {row[-1] for row in rows} == {"exact |"}
    sent = {row[0]: [float(cell) for cell in row[2:4]] for row in rows if row[3] != "local"}
    assert sent["| tars, `sr index` of webshart JSON, blocks"][1] < sent["| plain tars, no counts"][1]
