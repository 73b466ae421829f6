"""What importing costs and which modules may import heavy packages. The layers are checked by import-linter."""

import subprocess
import sys

from tests.helpers.program import ROOT


def test_options_need_no_torch() -> None:
    code = "import sys, sr.config.options; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_accelerate_and_deepspeed_stay_in_their_files() -> None:
    prefixes = ("import accelerate", "from accelerate", "import deepspeed", "from deepspeed")
    users = {
        path.relative_to(ROOT / "sr").as_posix()
        for path in (ROOT / "sr").rglob("*.py")
        if any(line.strip().startswith(prefixes) for line in path.read_text().splitlines())
    }
    allowed = {"train/model_optimizer.py", "distributed/comm.py"}
    assert {user for user in users if not user.startswith("distributed/backends/")} <= allowed
