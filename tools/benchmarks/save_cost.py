"""What the step that saves costs over one that does not, and the step after it, while a thread writes.

    python tools/benchmarks/save_cost.py options/rrdb_psnr_x4.yml --rounds 8 --set data.source.gt=PHOTOS --set
    data.batch_size=8

Steps come in turn in one process: plain, saving, the one after, plain. Their data are read beforehand; the checkpoints
go to a folder of the run's own disk, which is removed. Prints medians with the range, and their ratios.
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import closing
from typing import Any

import torch
from measure_step import parameters, wait

from sr.core.errors import UserError
from sr.train.builder import Builder, load

KINDS = "plain", "saving", "after", "plain"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options")
    parser.add_argument("--rounds", type=int, default=8, help="of four steps each (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    options = load(args.options, args.set)
    options.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder.parent, prefix="save_cost_") as folder:
        engine = Builder(load(args.options, [*args.set, f"out={folder}"])).trainer()
        times = measure(engine, args.rounds)
        newest = sorted((engine.plan.folder / "checkpoints").glob("step_*"))[-1]
        size = sum(path.stat().st_size for path in newest.iterdir())
    nets = ", ".join(f"{name} {parameters(player.raw) / 1e6:.2f} M" for name, player in engine.players.items())
    print(f"{nets}; checkpoint {size / 1e6:.0f} MB; {engine.device}, {torch.get_num_threads()} threads")
    plain = statistics.median(times["plain"])
    for kind, found in times.items():
        middle = statistics.median(found)
        print(
            f"{kind:13} {middle * 1e3:8.1f} ms ({min(found) * 1e3:.1f} to {max(found) * 1e3:.1f}, n = {len(found)}), "
            f"{middle / plain:.4f} of plain"
        )
    return 0


def measure(engine: Any, rounds: int) -> dict[str, list[float]]:
    """Seconds by kind of step; "save alone" is the part of "saving" after the update."""
    times: dict[str, list[float]] = {kind: [] for kind in (*KINDS[:3], "save alone")}
    with closing(engine.batches(0)) as batches:
        feed = iter([next(batches) for _ in range(engine.plan.accumulate * (len(KINDS) * rounds + 3))])
    for warm in range(3):  # the second saves: memory for the copy is taken once
        engine.train_step(feed)
        if warm == 1:
            engine.save()
    for _ in range(rounds):
        engine.saver.wait()
        for kind in KINDS:
            began = time.perf_counter()
            engine.train_step(feed)
            wait(engine.device)
            computed = time.perf_counter()
            if kind == "saving":
                engine.save()
                times["save alone"].append(time.perf_counter() - computed)
            times[kind].append(time.perf_counter() - began)
            if kind == "after":
                engine.saver.wait()
    engine.saver.wait()
    return times


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"save_cost: {error}")
