"""What importing costs and which modules may import heavy packages. The layers are checked by import-linter."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from tests.helpers.program import ROOT, Forked


def test_options_need_no_torch() -> None:
    code = "import sys, sr.config.options; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_command_line_starts_without_torch() -> None:
    """`sr --version`, `sr --help` and wrong arguments answer at once."""
    code = (
        "import contextlib, sys; sys.modules['fcntl'] = None; from sr import cli\n"
        "for words in (['--version'], ['upscale', '--help']):\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        cli.main(words)\n"
        "assert cli.main(['upscale', '--no-such-flag']) == 2\n"
        "assert cli.main(['recipes']) == 0\n"
        "assert not {'torch', 'numpy', 'pydantic'} & sys.modules.keys(), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.slow
def test_a_photo_is_upscaled_without_the_compiler_of_torch(photos: Path, tmp_path: Path) -> None:
    """Importing it would double the processor time of a small image."""
    code = (
        "import sys; from sr import cli\n"
        f"assert cli.main(['upscale', {str(next(photos.iterdir()))!r}, '-o', {str(tmp_path)!r}]) == 0\n"
        "heavy = {'torch._dynamo', 'sympy', 'torchvision', 'accelerate', 'spandrel'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_accelerate_and_deepspeed_stay_in_their_files() -> None:
    prefixes = ("import accelerate", "from accelerate", "import deepspeed", "from deepspeed")
    users = {
        path.relative_to(ROOT / "sr").as_posix()
        for path in (ROOT / "sr").rglob("*.py")
        if any(line.strip().startswith(prefixes) for line in path.read_text().splitlines())
    }
    allowed = {"train/model_optimizer.py", "train/trackers.py", "distributed/comm.py"}
    assert {user for user in users if not user.startswith("distributed/backends/")} <= allowed


def test_upscaling_works_without_posix_locks(photos: Path, tmp_path: Path) -> None:
    """Windows has no fcntl; msvcrt stands in for it, with the calls that `sr.core.lock` makes."""

    def work() -> int:
        calls: list[tuple[int, ...]] = []
        for name in [name for name in sys.modules if name.partition(".")[0] == "sr"]:
            del sys.modules[name]
        sys.modules["fcntl"] = None  # type: ignore[assignment]
        sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=lambda *a: calls.append(a))  # type: ignore[assignment]
        from sr import cli

        code = cli.main(["upscale", str(photos), "-o", str(tmp_path / "out"), "-m", "bicubic", "--scale", "2"])
        assert calls
        assert all(args[1:] == (2, 1) for args in calls)
        return code

    code, said = Forked(tmp_path / "said", work).wait()
    assert code == 0, said
    assert len(list((tmp_path / "out").glob("*.png"))) == 6
