"""Measure the program on a GPU in parts of at most nine minutes, and compare with the goals.

    python tools/gpu_acceptance.py --part A --out a.jsonl       # also B and C
    python tools/gpu_acceptance.py --compare a.jsonl b.jsonl    # print a Markdown table

Every stage runs in a separate process with a time limit. Its result is appended to the file at once, so that an
interrupted part keeps what it measured. --rehearse: tiny sizes on a CPU, to test the stages themselves.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
Rows = list[dict[str, Any]]

SYNCS = """
import sys, tempfile, torch
sys.path.insert(0, "tools/benchmarks")
from launches import SETS, photos
from pathlib import Path
from sr.train.builder import Builder, load
with tempfile.TemporaryDirectory() as folder:
    source = f"data.source={{{{type: folder, gt: {{photos(Path(folder))}}}}}}"
    sets = [*SETS, "data.batch_size={batch}", source, f"out={{folder}}"]
    trainer = Builder(load("options/realesrgan_x4.yml", sets + {more})).trainer()
    batches = trainer.batches(0)
    raws = [next(batches) for _ in range({steps} + 1)]
    trainer.train_step(iter(raws[:1]))
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("error")
    for raw in raws[1:]:
        trainer.train_step(iter([raw]))
"""


class Stage(NamedTuple):
    """A command.

    Attributes:
        name: For the table.
        words: The arguments of benchmark.py; or of python if the first is `-c`.
        limit: Seconds after which it is stopped.
        value: Returns the value from the rows of the benchmark.
        goal: The least value; None without a goal.
    """

    name: str
    words: list[str]
    limit: float
    value: Callable[[Rows], float | None] = lambda rows: None
    goal: float | None = None


def ratio(arm: str, to: str = "") -> Callable[[Rows], float | None]:
    """Return how many times as fast the first arm with this name is as the reference, or as the arm `to`."""

    def value(rows: Rows) -> float | None:
        found = [next((row for row in rows if row["arm"].startswith(name)), None) for name in (arm, to)]
        if found[0] is None or found[1] is None:
            return None
        return found[1]["seconds"] / found[0]["seconds"]

    return value


def share(rows: Rows) -> float | None:
    return next((row["share"] for row in rows if row["arm"].startswith("ours, bf16")), None)


def stages(part: str, *, tiny: bool) -> list[Stage]:
    """Return the stages of a part, with sizes for a CPU where `tiny`."""
    small = ["--gt", "32", "--blocks", "1", "--feat", "16"] if tiny else []
    more = ["data.gt_size=32", "data.degrade_size=64", "generator.num_block=1"] if tiny else []
    batch, large, pairs = ("1", "2", "1") if tiny else ("12", "48", "5")
    once = ["--pairs", "1", "--no-memory"]
    step = ["step", "--pairs", pairs, *small, "--no-memory"]
    syncs = SYNCS.format(batch=1 if tiny else 12, steps=1 if tiny else 20, more=more)
    upscale = ["--size", "32", "48", "--images", "1"] if tiny else ["--size", "480", "720", "--images", "20"]
    parts = {
        "A": [
            Stage("20 steps that never wait for the GPU", ["-c", syncs], 120),
            Stage("step, batch 12, against BasicSR", [*step, "--batch", batch], 150, ratio("ours"), 2.5),
            Stage("step, batch 12, strict", [*step, "--batch", batch], 150, ratio("ours", "BasicSR strict"), 5.5),
            Stage("step, batch 48, against BasicSR", [*step, "--batch", large], 120, ratio("ours"), 2.5),
        ],
        "B": [
            Stage(
                "generator, share of the bf16 peak",
                ["step", "--part", "generator", "--pairs", pairs, *small, "--batch", large, "--precision", "bf16"],
                150,
                share,
                0.3,
            ),
            Stage("degradation", ["degrade", *once, "--batch", batch], 120, ratio("ours"), 8.0),
            Stage("upscaling a folder", ["upscale", *once, *upscale], 240, ratio("ours, default"), 4.0),
        ],
        "C": [
            Stage("log and save", ["overhead", "--batch", batch, "--pairs", pairs], 200, ratio("logs"), 0.98),
            Stage("resume", ["resume", "--pairs", "1"], 100),
            Stage("start", ["overhead", "--part", "start", "--pairs", "1"], 200),
        ],
    }  # fmt: skip
    return parts[part]


def measure(stage: Stage, device: str) -> dict[str, Any]:
    """Run a stage. Returns its line of the file, with the last line of its errors where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        line = [sys.executable, *stage.words]
        if stage.words[0] != "-c":
            line = [
                sys.executable,
                "tools/benchmarks/benchmark.py",
                *stage.words,
                "--device",
                device,
                "--json",
                str(file),
            ]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        began = time.monotonic()
        try:
            done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=stage.limit)
            code, error = done.returncode, (done.stderr.strip().splitlines() or [""])[-1]
        except subprocess.TimeoutExpired:
            code, error = 124, f"stopped after {stage.limit:g} s"
        rows: Rows = json.loads(file.read_text())["rows"] if file.exists() else []
    value = float(code == 0) if stage.words[0] == "-c" else stage.value(rows)
    goal = 1.0 if stage.words[0] == "-c" else stage.goal
    met = None if goal is None or value is None else value >= goal
    made = {"stage": stage.name, "value": value, "goal": goal, "met": met, "code": code}
    return made | {"error": error if code else "", "seconds": round(time.monotonic() - began, 1), "rows": rows}


def machine() -> dict[str, str]:
    """Return the GPU with its clocks, and the versions."""
    query = "name,clocks.sm,clocks.mem,power.limit,driver_version"
    try:
        line = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        gpu = subprocess.run(line, capture_output=True, text=True, timeout=20).stdout.strip()
    except OSError:
        gpu = "none"
    from importlib.metadata import version

    return {"gpu": gpu, "python": platform.python_version(), "torch": version("torch")}


def compare(files: Sequence[Path]) -> str:
    """Return a Markdown table of the lines of all files."""
    lines = ["| stage | value | goal | | s |", "|---|---|---|---|---|"]
    for row in (json.loads(line) for file in files for line in file.read_text().splitlines()):
        value = row["error"] or "failed" if row["value"] is None else f"{row['value']:.3g}"
        goal = "" if row["goal"] is None else f"{row['goal']:g}"
        words = {True: "met", False: "not met", None: ""}[row["met"]]
        lines.append(f"| {row['stage']} | {value} | {goal} | {words} | {row['seconds']:g} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["A", "B", "C"])
    parser.add_argument("--out", type=Path, metavar="FILE", help="append one JSON line per stage")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on a CPU")
    parser.add_argument("--compare", type=Path, nargs="+", metavar="FILE", help="print a table of these files")
    args = parser.parse_args(argv)
    if args.compare:
        print(compare(args.compare))
        return 0
    if args.part is None or args.out is None:
        parser.error("give --part and --out, or --compare")
    facts = machine()
    with args.out.open("a") as file:
        for stage in stages(args.part, tiny=args.rehearse):
            row = measure(stage, "cpu" if args.rehearse else "cuda")
            file.write(json.dumps(row | facts) + "\n")
            file.flush()
            print(f"{stage.name}: {row['value']} {row['error']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
