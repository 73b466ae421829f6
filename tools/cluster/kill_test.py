"""Kill a run repeatedly with SIGKILL, resume it, and compare its last checkpoint with that of an undisturbed run.

    python tools/cluster/kill_test.py options/quickstart.yml --kills 20 --set train.total_steps=200 --set save.every=5
    python tools/cluster/kill_test.py options/quickstart.yml --kills 50 --writing --spread 0.3 --set save.every=1 ...

Each kill happens at a random moment after at least one more checkpoint; with --writing, after a random number of
further checkpoints and within --spread seconds after the writing of one began. Kills that left an unfinished checkpoint
are counted. After each kill the run must resume from the newest finished checkpoint. Exit code 0: the last checkpoints
are bit-identical.
"""

import argparse
import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sr.train import checkpoint

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def command(args: argparse.Namespace, name: str, out: str) -> list[str]:
    sets = [f"--set={given}" for given in [*args.set, f"name={name}", f"out={out}"]]
    return [sys.executable, "-m", "sr", "train", args.options, *sets]


def newest(root: Path) -> int:
    return (checkpoint.steps(root) or [0])[-1]


def unfinished(root: Path, since: float = 0.0) -> list[str]:
    """Return the unfinished checkpoints that changed after the time `since`."""
    found = []
    for path in root.glob(".step_*[0-9].tmp"):
        with contextlib.suppress(FileNotFoundError):  # just finished
            found += [path.name] if path.stat().st_ctime > since else []
    return found


def run_until_killed(args: argparse.Namespace, out: str, rng: random.Random) -> tuple[bool, str]:
    """Return (whether the run was killed before its end, its output)."""
    root, log = Path(out, "killed", "checkpoints"), Path(out, "output.txt")
    with log.open("w") as file, subprocess.Popen(command(args, "killed", out), stdout=file, stderr=file) as process:

        def wait(condition: Callable[[], bool]) -> None:
            while process.poll() is None and not condition():
                time.sleep(0.001)

        for _ in range(rng.randint(0, 2) if args.writing and newest(root) else 1):
            before = newest(root)
            wait(lambda before=before: newest(root) > before)  # type: ignore[misc]
        if args.writing:
            began = time.time()
            wait(lambda: bool(unfinished(root, since=began)))
        time.sleep(rng.random() * args.spread)
        killed = process.poll() is None
        process.send_signal(signal.SIGKILL)
    if not killed and process.returncode:
        sys.exit(f"the run ended by itself with code {process.returncode}:\n{log.read_text()[-2000:]}")
    return killed, log.read_text()


def differing(one: checkpoint.Checkpoint, other: checkpoint.Checkpoint) -> list[str]:
    names = [(group, key) for group, tensors in one.tensors.items() for key in tensors]
    return [
        f"{group}/{key}" for group, key in names if not torch.equal(one.tensors[group][key], other.tensors[group][key])
    ]


def kill_and_resume(args: argparse.Namespace, out: str) -> tuple[int, int, int]:
    """Return (kills, kills that left an unfinished checkpoint, resumes from the newest finished one)."""
    rng, root, counts = random.Random(args.seed), Path(out, "killed", "checkpoints"), [0, 0, 0]
    while counts[0] < args.kills:
        step = newest(root)
        killed, output = run_until_killed(args, out, rng)
        counts[2] += bool(step) and f"at step {step}" in output
        if not killed:
            break
        counts[0] += 1
        counts[1] += bool(unfinished(root))
        print(f"kill {counts[0]}: newest checkpoint at step {newest(root)}; unfinished: {unfinished(root) or 0}")
    step = newest(root)
    end = subprocess.run(command(args, "killed", out), check=True, capture_output=True, text=True)
    counts[2] += bool(step) and f"at step {step}" in end.stdout + end.stderr
    return counts[0], counts[1], counts[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--writing", action="store_true", help="kill while a checkpoint is being written")
    parser.add_argument(
        "--spread", type=float, default=1.0, help="a kill happens within this many seconds (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(command(args, "whole", out), check=True, **QUIET)  # type: ignore[call-overload]
        whole = checkpoint.load_newest(Path(out, "whole", "checkpoints"))
        kills, cut, resumes = kill_and_resume(args, out)
        end = checkpoint.load_newest(Path(out, "killed", "checkpoints"))
        assert whole is not None
        assert end is not None
        wrong = differing(whole, end)
    tensors = sum(len(group) for group in end.tensors.values())
    print(f"{kills} kills ({cut} left a checkpoint unfinished), {resumes} resumes from the newest finished checkpoint")
    print(f"step {end.state['step']}: {tensors - len(wrong)} of {tensors} tensors bit-identical")
    for name in wrong[:5]:
        print(f"  differs: {name}")
    return 1 if wrong or resumes < kills else 0


if __name__ == "__main__":
    sys.exit(main())
