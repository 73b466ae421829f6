"""Mistakes in an options file are found without torch, by cached signatures that equal those of the constructors."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sr.config.json_schema import schema
from sr.config.options import Options
from sr.config.signatures import decode, encode
from sr.train import early_check
from sr.train.builder import TABLES
from tests.helpers.program import ROOT

Recipe = Callable[..., Path]
CHILD = """
import sys, time
from sr.cli import main
code = main(sys.argv[1:])
print(time.process_time())
print([name for name in ("torch", "torchvision", "accelerate", "deepspeed") if name in sys.modules])
sys.exit(code)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SR_HOME", str(tmp_path / "home"))
    file = tmp_path / "home" / "signatures" / "signatures.json"
    early_check.write(file)
    return file


@pytest.mark.parametrize("verb", ["check", "train"])
def test_a_mistake_is_reported_without_torch(recipe: Recipe, cache: Path, verb: str) -> None:
    file = recipe(losses__gan={"type": "hindge"}, degrade=[{"type": "blur", "sigma": [2, 1]}, {"type": "downscale"}])
    command = [sys.executable, "-c", CHILD, verb, str(file)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 2
    assert "losses.gan.type: no 'hindge' here" in done.stderr
    assert "degrade.0.sigma: " in done.stderr
    assert "give the lower bound first" in done.stderr
    seconds, imported = done.stdout.splitlines()
    assert imported == "[]"
    assert float(seconds) < 1.5  # of CPU, 0.7 on an idle machine


def test_signatures_survive_json() -> None:
    decoded = decode(json.loads(json.dumps(encode(TABLES))), lambda: TABLES)
    assert json.dumps(schema(Options, decoded)) == json.dumps(schema(Options, TABLES))
    assert {name: (table.supplied, list(table.rows)) for name, table in decoded.items()} == {
        name: (table.supplied, list(table.rows)) for name, table in TABLES.items()
    }
    member = decoded["generators"].rows["basicsr.*"]
    assert callable(member)


def test_a_cache_of_other_sources_is_made_again(cache: Path) -> None:
    made = cache.read_bytes()
    assert early_check.tables() is not TABLES
    for stale in (made.replace(b'"key": "', b'"key": "0'), b"{", b"[]"):
        cache.write_bytes(stale)
        assert early_check.tables() is TABLES
        assert cache.read_bytes() == made
