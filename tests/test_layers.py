"""The house keeps its shape: imports go down only, files and functions stay readable, importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

LAYERS = [
    "errors construct atomic schema document stopping pages",
    "batch meeting pulse dist images bicubic lab seeded tiles nets losses degrade metrics schedules optimizers",
    "reach precision inference",
    "data tasks",
    "backends player ema checkpoint guard saver snapshot track health video folders jobs upscale translate validate",
    "engine",
    "options build_nets build_validation build",
    "describe export report score",
    "run",
    "cli __main__",
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms.split()}
FILES = sorted((ROOT / "sr").rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT / "sr").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    if room(path) == "__init__":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "sr" else [f"sr.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("sr.") and name != "sr.__version__":
                other = name.split(".")[1]
                assert LEVEL[other] <= LEVEL[room(path)], f"{path.name} imports {name}, which stands above it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_fits_a_sitting_and_a_function_a_screen(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, f"{path.name}: {node.name}"


def test_options_need_no_torch() -> None:
    code = "import sys, sr.options; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_accelerate_and_deepspeed_stay_in_their_files() -> None:
    users = {
        str(path.relative_to(ROOT / "sr"))
        for path in FILES
        for line in path.read_text().splitlines()
        if line.strip().startswith(("import accelerate", "from accelerate", "import deepspeed", "from deepspeed"))
    }
    assert {user for user in users if not user.startswith("backends/")} <= {"player.py", "dist.py"}
