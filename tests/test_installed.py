"""The package as a user installs it: a wheel in a fresh virtual environment, run from outside of the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from sr.inference.zoo import DEFAULT
from tests.helpers.program import ROOT
from tests.test_docs import commands, ours

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Recipe = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
SOURCES = ("sr", "setup.py", "pyproject.toml", "README.md", "LICENSE", "options", "launch")
COMPILER = shutil.which("cc") or shutil.which("gcc")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; the dependencies are those of the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    wheel = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(wheel, check=True, capture_output=True, cwd=folder)
    shutil.rmtree(source)
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["install", "--no-deps", "--no-index", "--ignore-installed", *map(str, folder.glob("*.whl"))]
    subprocess.run([*PIP, "--python", str(python), *install], check=True, capture_output=True, cwd=folder)
    return folder / "venv"


@pytest.fixture
def run(environment: Path, tmp_path: Path) -> Run:
    """Run a program of the environment in an empty folder, without the variables that would reveal the checkout."""

    def call(program: str, *args: str | Path, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        env |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        command = [str(environment / "bin" / program), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, env=env, cwd=cwd)

    return call


def test_the_wheel_is_imported_and_compiled(run: Run, environment: Path) -> None:
    done = run("python", "-c", "import sr, pathlib; print(pathlib.Path(sr.__file__).parent)")
    package = Path(done.stdout.strip())
    assert environment in package.parents, done.stderr
    if COMPILER:
        assert list(package.rglob("_winograd*.so")), "the wheel was built without the CPU convolutions"
    assert (package / "py.typed").exists()
    assert (package / "config" / "signatures.json").exists()  # `sr check` of a file with a mistake needs no torch


def test_check_train_and_upscale_outside_of_the_checkout(
    run: Run, recipe: Recipe, photos: Path, tmp_path: Path
) -> None:
    file = recipe(train={"total_steps": 1, "ema_decay": 0.9}, name="installed")
    checked = run("sr", "check", file)
    assert checked.returncode == 0, checked.stderr
    trained = run("sr", "train", file)
    assert trained.returncode == 0, trained.stderr
    model = tmp_path / "runs" / "installed" / "models" / "net_g_1.safetensors"
    upscaled = run("sr", "upscale", photos, "-o", tmp_path / "upscaled", "-m", model)
    assert upscaled.returncode == 0, upscaled.stderr
    assert len(list((tmp_path / "upscaled").glob("*.png"))) == len(list(photos.glob("*.png")))


def test_accelerate_inside_of_a_checkout_finds_the_compiled_convolutions(
    run: Run, recipe: Recipe, tmp_path: Path
) -> None:
    """`python -m sr` in a checkout imports ./sr, which holds no compiled library: the installed one is used."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "sr", checkout / "sr", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    file = recipe(train={"total_steps": 1, "ema_decay": 0.9}, name="launched")
    launch = ("-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1")
    options = ("--mixed_precision", "no", "--dynamo_backend", "no")
    done = run("python", *launch, *options, "-m", "sr", "train", file, cwd=checkout)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "launched" / "models" / "net_g_1.safetensors").exists()
    if COMPILER:
        assert "C compiler" not in done.stdout + done.stderr


def test_upscale_without_a_model_uses_the_one_in_the_wheel(run: Run, photos: Path, tmp_path: Path) -> None:
    if not (ROOT / "sr" / "inference" / "zoo" / f"{DEFAULT}.safetensors").exists():
        pytest.skip("the default model is not in the checkout")
    done = run("sr", "upscale", photos / "photo_0.png")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"sr: using {DEFAULT}, the default; choose another model with -m")
    assert (tmp_path / "upscaled" / "photo_0.png").exists()


def test_the_commands_of_the_readme_run(run: Run, tmp_path: Path) -> None:
    """Those of its section on training that take seconds."""
    (tmp_path / "PHOTOS").mkdir()
    Image.fromarray(data.astronaut()).save(tmp_path / "PHOTOS" / "astronaut.png")
    verbs = []
    for words in commands((ROOT / "README.md").read_text()):
        arguments = ours(words)
        if arguments and arguments[0] in ("shard", "init", "degrade", "check"):
            result = run("sr", *arguments)
            assert result.returncode == 0, f"{words}\n{result.stderr[-2000:]}"
            verbs.append(arguments[0])
    assert verbs == ["shard", "init", "degrade", "check"]
