"""Kill a run again and again with SIGKILL, continue it, and compare its end with an undisturbed run.

    python tools/kill_test.py options/quickstart.yml --kills 20 --set train.total_steps=200 --set save.every=5

Each kill falls at a random moment after the run has gone on by at least one step; some fall into the writing of a
checkpoint. Exit code 0 when the last checkpoints are equal to the last bit.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from sr import checkpoint


def command(args: argparse.Namespace, name: str, out: str) -> list[str]:
    sets = [f"--set={given}" for given in [*args.set, f"name={name}", f"out={out}"]]
    return [sys.executable, "-m", "sr", "train", args.options, *sets]


def run_until_killed(args: argparse.Namespace, out: str, rng: random.Random) -> tuple[bool, int]:
    """(whether the run was killed, not finished; the step of its newest checkpoint)."""
    root = Path(out, "killed", "checkpoints")
    before = checkpoint.steps(root)[-1:]
    with subprocess.Popen(
        command(args, "killed", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and checkpoint.steps(root)[-1:] == before:
            time.sleep(0.005)
        time.sleep(rng.random() * args.spread)
        killed = process.poll() is None
        process.send_signal(signal.SIGKILL)
    if not killed and process.returncode:
        sys.exit(f"the run ended by itself with code {process.returncode}; try its command by hand")
    return killed, (checkpoint.steps(root) or [0])[-1]


def differing(one: checkpoint.Checkpoint, other: checkpoint.Checkpoint) -> list[str]:
    names = [(group, key) for group, tensors in one.tensors.items() for key in tensors]
    return [
        f"{group}/{key}" for group, key in names if not torch.equal(one.tensors[group][key], other.tensors[group][key])
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--spread", type=float, default=1.0, help="seconds over which the moment of a kill is spread")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    rng, kills = random.Random(0), 0
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(command(args, "whole", out), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        whole = checkpoint.load_newest(Path(out, "whole", "checkpoints"))
        while kills < args.kills:
            killed, step = run_until_killed(args, out, rng)
            if not killed:
                break
            kills += 1
            print(f"kill {kills}: newest checkpoint is of step {step}", flush=True)
        subprocess.run(command(args, "killed", out), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = checkpoint.load_newest(Path(out, "killed", "checkpoints"))
        assert whole is not None
        assert end is not None
        wrong = differing(whole, end)
    tensors = sum(len(group) for group in end.tensors.values())
    print(f"{kills} kills, step {end.state['step']}: {tensors - len(wrong)} of {tensors} tensors equal to the last bit")
    for name in wrong[:5]:
        print(f"  differs: {name}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
