"""Save a run with one launch line, resume it with another one, and compare with an uninterrupted run, for every pair.

    ACCELERATE_USE_CPU=true python tools/cluster/elastic_table.py options/quickstart.yml --steps 20 \\
        --way 1 "python" --way 2 "accelerate launch --multi_gpu --num_processes 2"

--way takes a name and a launch line. Each launch line starts a run and stops it at half of the steps; each resumes a
copy of every such run. Prints a table: whether every sample position was used once and in order, the largest
differences of weights, EMA and optimizer state to the uninterrupted run of the first launch line, and how far the
second half moved the weights. Exit code 1: a position was used twice or not at all, or a difference of the weights
exceeds --tolerance.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from torch import Tensor

from sr.train import checkpoint


def train(args: argparse.Namespace, launch: str, folder: Path, steps: int) -> None:
    # A schedule that depends on total_steps would differ between a run of half of the steps and a full one.
    given = [*args.set, f"name={folder.name}", f"out={folder.parent}", f"train.total_steps={steps}"]
    given += ["log.samples=true", "schedule={type: constant}"]
    command = [*shlex.split(launch), "-m", "sr", "train", args.options, *(f"--set={one}" for one in given)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\nended with code {done.returncode}:\n{done.stderr[-3000:]}")


def in_order(folder: Path) -> bool:
    """Return whether the run used every global position once, in order."""
    rows = [json.loads(line)["ranks"] for line in (folder / "samples.jsonl").read_text().splitlines()]
    used = [position for ranks in rows for positions in ranks for position in positions]
    return used == list(range(len(used)))


def tensors(folder: Path) -> dict[str, Tensor]:
    found = checkpoint.load_newest(folder / "checkpoints")
    assert found is not None
    return {f"{group}/{key}": value for group, values in found.tensors.items() for key, value in values.items()}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[float, float]:
    """Return the largest differences of (weights and EMA, optimizer state)."""
    apart = {key: (one[key].double() - other[key].double()).abs().max().item() for key in one if one[key].numel()}
    weights = {key for key in apart if key.startswith("ema/") or key.split("/")[1] == "model"}
    return max(apart[key] for key in weights), max((apart[key] for key in apart.keys() - weights), default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--way", nargs=2, action="append", required=True, metavar=("NAME", "LAUNCH"))
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    ways, half, wrong = dict(args.way), args.steps // 2, False
    with tempfile.TemporaryDirectory() as out:
        whole = Path(out, "whole")
        train(args, next(iter(ways.values())), whole, args.steps)
        end = tensors(whole)
        print("| saved on | resumed on | every position once | weights differ by | optimizer state differs by |")
        print("|---|---|---|---|---|", flush=True)
        for first, launch in ways.items():
            train(args, launch, Path(out, "half"), half)
            moved = difference(end, tensors(Path(out, "half")))[0]
            for second, relaunch in ways.items():
                folder = Path(out, "resumed")
                shutil.copytree(Path(out, "half"), folder)
                train(args, relaunch, folder, args.steps)
                once, (weights, optimizer_state) = in_order(folder), difference(end, tensors(folder))
                wrong |= not once or weights > args.tolerance
                print(
                    f"| {first} | {second} | {'yes' if once else 'NO'} | {weights:.1e} | {optimizer_state:.1e} |",
                    flush=True,
                )
                shutil.rmtree(folder)
            shutil.rmtree(Path(out, "half"))
    print(f"\nFrom step {half} to {args.steps} the weights moved by up to {moved:.1e}.")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
