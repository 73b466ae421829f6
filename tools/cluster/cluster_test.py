"""Train on several simulated hosts, inject faults, and compare the weights with those of an undisturbed run.

    sudo python tools/cluster/cluster_test.py --nodes 2 4 --out cluster
    sudo python tools/cluster/cluster_test.py --nodes 2 --only random --faults 30 --seed 1 --out cluster
    sudo python tools/cluster/cluster_test.py --nodes 2 --only soak --hours 6 --timeout 30 --out cluster

The hosts are network namespaces on this machine. Each runs `accelerate launch -m sr train` on small networks; the
launcher restarts its processes up to --restarts times, and is started again when it fails, as a scheduler does. Writes
a table, results.json and the output of every launch to --out. Exit code 0: all results as expected; 1: some differ;
77: namespaces are not available (the reason is printed).
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import yaml
from cluster import Cluster, forbidden
from cluster_run import FAULTS, RANDOM, SOAK, Failed, Fault, Run
from PIL import Image

from sr.train import checkpoint

RANDOM_STEPS, SAVE_EVERY = 80, 5
ONE_STEPS, TOLERANCE = 10, 1e-4  # of the comparison with one process, which sums floats in another order
SKIPPED = 77
RECIPE = {
    "task": "sr_gan",
    "scale": 2,
    "generator": {"type": "rrdbnet", "num_feat": 8, "num_block": 1, "num_grow_ch": 4},
    "discriminator": {"type": "unet_sn", "num_feat": 8},
    "losses": {"pixel": {"type": "l1"}, "gan": {"type": "vanilla", "weight": 0.1}},
    "degrade": [{"type": "blur"}, {"type": "downscale"}, {"type": "noise"}],
    "optimizer": {name: {"type": "adam", "lr": 1e-4} for name in ("generator", "discriminator")},
    "log": {"every": 1},
    "save": {"every": SAVE_EVERY, "keep": 1000},
}


@dataclass
class Row:
    """A row of the table. recovered_after: seconds from the fault to the next new step."""

    nodes: int
    fault: str
    injected_at: str
    recovered_after: str = "-"
    continued_from: str = "-"
    weights: str = "-"
    good: bool = False


DISK = "512m"  # size of the file system of a soak


# ---- scenarios -------------------------------------------------------------------------------------------------------


class Scenarios:
    """The scenarios for one number of hosts. `whole` is the undisturbed run with which the others are compared."""

    def __init__(self, args: argparse.Namespace, cluster: Cluster) -> None:
        self.args, self.cluster, self.rng = args, cluster, random.Random(args.seed)
        self.count = len(cluster.nodes)
        self.whole = self.run("whole", steps=RANDOM_STEPS if {"random", "soak"} & set(args.only) else args.steps)
        self.whole.timeout = 120
        self.whole.finish()

    def run(self, name: str, *, steps: int | None = None, alone: bool = False) -> Run:
        return Run(self.args, self.cluster, f"{name}_{self.count}", steps=steps or self.args.steps, alone=alone)

    def equal(self) -> list[Row]:
        one = self.run("one", steps=ONE_STEPS, alone=True)
        one.finish()
        apart = differs(one, self.whole, ONE_STEPS)
        row = Row(self.count, "none; one process instead", "-", weights=f"at step {ONE_STEPS} within {apart:.1e}")
        row.good = apart <= TOLERANCE
        return [row]

    def broken(self, fault: str) -> list[Row]:
        run = self.run(fault)
        run.reach(2 * SAVE_EVERY + 2)
        row = self._break(run, FAULTS[fault], self.count - 1)
        self._recover(run, row)
        return self._compare(run, [row])

    def _break(self, run: Run, fault: Fault, node: int) -> Row:
        self.since, self.was, self.before = time.monotonic(), run.step, len(run.resumed)
        row = Row(self.count, fault(run, node, self.rng), f"step {self.was}" if self.was else "start")
        print(f"  {run.name}: {row.fault} at {row.injected_at}", flush=True)
        return row

    def _recover(self, run: Run, row: Row) -> None:
        run.reach(self.was + 2)  # one more step may have been in progress
        row.recovered_after = f"{time.monotonic() - self.since:.1f} s"
        row.continued_from = ", ".join(f"step {step}" for step in run.resumed[self.before :]) or "uninterrupted"

    def _compare(self, run: Run, rows: list[Row]) -> list[Row]:
        run.finish()
        apart = differs(run, self.whole, run.steps)
        for row in rows:
            row.weights, row.good = "bit-identical" if apart == 0 else f"differ by {apart:.1e}", apart == 0
        return rows

    def cut(self) -> list[Row]:
        """A link that stays down: every process ends in time and names the lost host."""
        run, lost = self.run("cut"), self.count - 1
        run.relaunch, run.restarts = False, 0
        run.reach(SAVE_EVERY + 2)
        row, began = Row(self.count, f"link of node{lost} down permanently", f"step {run.step}"), time.monotonic()
        self.cluster.link(lost, up=False)
        try:
            run.until(run.supervise, patience=run.timeout + 60)  # launchers notice it later on busy cores
            row.recovered_after = f"ended in {time.monotonic() - began:.1f} s with codes {list(run.codes.values())}"
        finally:
            self.cluster.link(lost, up=True)
        named = [f"on node{0 if node == lost else lost} (10.77" in run.output(node) for node in run.nodes]
        left = [pid for node in run.nodes for pid in self.cluster.pids(node)]
        row.weights = next((line for line in run.output(0).splitlines() if line.startswith("sr: rank")), "-")
        row.good = all(named) and all(run.codes.values()) and not left
        return [row]

    def random(self) -> Iterator[Row]:
        """Random faults at random moments, also during a start and during recovery from the previous fault."""
        left = self.args.faults
        while left:
            rows = self._disturbed(f"random{left}", RANDOM, left)
            yield from rows
            left -= len(rows)

    def soak(self) -> Iterator[Row]:
        """Runs with random faults for --hours, with a disk that fills up and clocks that jump."""
        end, number = time.monotonic() + 3600 * self.args.hours, 0
        while time.monotonic() < end:
            number += 1
            rows = self._disturbed(f"soak{number}", SOAK, 5)
            hours = self.args.hours - (end - time.monotonic()) / 3600
            print(f"{hours:.2f} h: {number} runs, at most {self.memory:.0f} MiB in the last one", flush=True)
            shutil.rmtree(self.args.out / "runs" / f"soak{number}_{self.count}")
            yield from rows

    def _disturbed(self, name: str, kinds: Sequence[Fault], most: int) -> list[Row]:
        """Run with up to 5 faults, and compare the result."""
        run, rows, self.memory = self.run(name, steps=RANDOM_STEPS), list[Row](), 0.0
        while len(rows) < min(most, 5) and run.step < run.steps - 16:
            if self.rng.random() < 0.3:
                run.wait(self.rng.uniform(0, 20))
            else:
                if rows:
                    self._recover(run, rows[-1])
                run.reach(min(run.step + self.rng.randint(1, 8), run.steps - 16))
            self.memory = max(self.memory, run.memory())
            rows.append(self._break(run, self.rng.choice(kinds), self.rng.randrange(self.count)))
        self._recover(run, rows[-1])
        return self._compare(run, rows)


def differs(one: Run, other: Run, step: int) -> float:
    """Return the largest difference of any value in two checkpoints, without optimizer state if `one` ran alone."""
    pair = [checkpoint.load(run.root / f"step_{step:08d}").tensors for run in (one, other)]
    keys = [(group, key) for group, tensors in pair[0].items() for key in tensors]
    if one.alone:
        keys = [(group, key) for group, key in keys if not key.startswith("exp_avg")]
    return max(float((pair[0][g][k].double() - pair[1][g][k].double()).abs().max()) for g, k in keys)


# ---- program ---------------------------------------------------------------------------------------------------------


def prepare(out: Path) -> None:
    """Write the options file and eight smooth random images."""
    photos = out / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for number in range(8):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((56, 48), Image.Resampling.BICUBIC).save(photos / f"photo_{number}.png")
    data = {"source": {"type": "folder", "gt": str(photos)}, "gt_size": 32, "batch_size": 8, "workers": 0}
    validation = {"every": 10, "sets": {"own": {"hr": str(photos / "photo_0.png")}}}
    recipe = {"name": "x", "out": str(out / "runs"), **RECIPE, "data": data, "validation": validation}
    recipe["train"] = {"total_steps": 1, "ema_decay": 0.9, "precision": "fp32"}
    (out / "recipe.yml").write_text(yaml.safe_dump(recipe, sort_keys=False))


def prepare_soak(out: Path, nodes: int) -> None:
    """Give the runs a small file system, and each host a clock that can be changed."""
    (out / "runs").mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(out / "runs")], check=True)
    for node in range(nodes):
        (out / f"clock{node}").write_text("0")


def table(rows: list[Row]) -> str:
    names = [field.name for field in fields(Row)]
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---" * len(names) + "|"]
    return "\n".join(lines + [f"| {' | '.join(str(getattr(row, name)) for name in names)} |" for row in rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2])
    parser.add_argument("--processes", type=int, default=1, help="processes per host (%(default)s)")
    parser.add_argument(
        "--only", nargs="+", default=["equal", *FAULTS, "cut", "random"], help="scenarios (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=40, help="steps of a run with one fault (%(default)s)")
    parser.add_argument(
        "--faults", type=int, default=30, help="number of faults of `random`, per number of hosts (%(default)s)"
    )
    parser.add_argument("--hours", type=float, default=6.0, help="length of `soak` (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=12, help="train.timeout, in seconds (%(default)s)")
    parser.add_argument(
        "--restarts", type=int, default=3, help="how often a launcher restarts its processes (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("cluster"), help="output folder (%(default)s)")
    args = parser.parse_args()
    args.out = args.out.resolve()
    if reason := forbidden():
        print(f"skipped: {reason}")
        return SKIPPED
    if args.out.exists():
        shutil.rmtree(args.out / "runs", ignore_errors=True), shutil.rmtree(args.out / "logs", ignore_errors=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    prepare(args.out)
    rows: list[Row] = []
    try:
        if "soak" in args.only:
            prepare_soak(args.out, max(args.nodes))
        for nodes in args.nodes:
            with Cluster(nodes) as cluster:
                scenarios = Scenarios(args, cluster)
                for name in args.only:
                    rows += scenarios.broken(name) if name in FAULTS else getattr(scenarios, name)()
    except Failed as error:
        print(f"failed: {error}; see {args.out / 'logs'}")
        return 1
    finally:
        subprocess.run(["umount", "-q", str(args.out / "runs")])
        (args.out / "results.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
        print(table(rows))
    return 0 if rows and all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
