"""A training step and a forward pass on idle and on busy cores, by the wait policy of OpenMP.

    python tools/benchmarks/benchmark.py busy --device cpu --pairs 3

Arms: the spinning of GNU's OpenMP as torch ships it, the default of sr (`sr.core.openmp`), and no spinning. Each
measurement runs in a separate process on `--cores` cores, because OpenMP reads the policy when torch is imported. The
work is a step of the recipe with its loader worker, or its generator without gradients. "busy": one more process
computes on the same cores. The ratio compares arms under the same load; the note is the time relative to the idle time
of the same arm.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from bench_harness import Row

from sr.core.openmp import DEFAULTS, USER

ROOT = Path(__file__).parents[2]
ARMS = {"spin (torch's default)": {"GOMP_SPINCOUNT": "300000"}, "sr's default": DEFAULTS} | {
    "no spinning": {"OMP_WAIT_POLICY": "passive"}
}
WARM_UP = 2  # runs that do not count


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--options", type=Path, default=ROOT / "options" / "quickstart.yml", help="(%(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="for all processes together (%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="of one measurement; the median counts (%(default)s)")
    parser.add_argument("--side", type=int, default=128, help="input of the forward pass in pixels (%(default)s)")


def run(args: argparse.Namespace) -> list[Row]:
    cores = sorted(os.sched_getaffinity(0))[: args.cores]
    times: dict[tuple[str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        measure = partial(measured, args, Path(folder), cores)
        measure("forward", {}, steps=1)  # makes the shards
        for _ in range(args.pairs):
            for load in ("idle", "busy"):
                for arm, policy in ARMS.items():
                    with busy_process(cores) if load == "busy" else nullcontext():
                        for work in ("step", "forward"):
                            times.setdefault((work, load, arm), []).append(measure(work, policy, steps=args.steps))
    rows = []
    for work in ("step", "forward"):
        for load in ("idle", "busy"):
            rows += [_row(times, work, load, arm) for arm in ARMS]
    return rows


def _row(times: dict[tuple[str, str, str], list[float]], work: str, load: str, arm: str) -> Row:
    own, first, idle = times[work, load, arm], times[work, load, next(iter(ARMS))], times[work, "idle", arm]
    seconds = statistics.median(own)
    ratio = statistics.median(other / mine for other, mine in zip(first, own, strict=True))
    note = f"{seconds / statistics.median(idle):.2f} x idle" if load == "busy" else ""
    return Row(f"{work}, {load}", arm, seconds, min(own), max(own), len(own), ratio, 1 / seconds, "runs", note=note)


@contextmanager
def busy_process(cores: list[int]) -> Iterator[None]:
    code = f"import os\nos.sched_setaffinity(0, {set(cores)})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measured(
    args: argparse.Namespace, folder: Path, cores: list[int], work: str, policy: dict[str, str], *, steps: int
) -> float:
    """Run `work` in a separate process; return the median of its seconds."""
    environ = {name: value for name, value in os.environ.items() if name not in USER} | policy
    environ |= {"OMP_NUM_THREADS": str(len(cores)), "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    asked = {"work": work, "steps": steps, "side": args.side, "cores": cores, "options": str(args.options)}
    line = [sys.executable, __file__, json.dumps(asked | {"folder": str(folder)})]
    made = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=3600)
    if made.returncode:
        sys.exit(f"benchmark: {made.stderr.strip().splitlines()[-1]}")
    return statistics.median(json.loads(made.stdout.splitlines()[-1])[WARM_UP:])


def child(asked: dict[str, Any]) -> list[float]:
    """Seconds of every run, the first ones too."""
    os.sched_setaffinity(0, asked["cores"])  # before torch counts the cores
    import torch

    from sr.train.builder import Builder, load

    folder = asked["folder"]
    sets = [f"out={folder}", f"data.source.path={folder}/shards", "validation.sets={}"]
    trainer = Builder(load(asked["options"], sets)).trainer()
    with closing(trainer.batches(0)) as batches:
        if asked["work"] == "step":
            return _times(lambda: trainer.train_step(batches), asked["steps"])
        net = trainer.players["generator"].module.eval()
        lq = torch.rand(1, 3, asked["side"], asked["side"]).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            return _times(lambda: net(lq), asked["steps"])


def _times(run: Callable[[], object], steps: int) -> list[float]:
    found = []
    for _ in range(WARM_UP + steps):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return found


if __name__ == "__main__":
    print(json.dumps(child(json.loads(sys.argv[1]))))
