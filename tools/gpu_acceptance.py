"""Measure the program on a GPU in parts of at most nine minutes, and compare with the goals.

    python tools/gpu_acceptance.py --part A --out a.jsonl       # also B and C
    python tools/gpu_acceptance.py --compare a.jsonl b.jsonl    # print a Markdown table

Every stage (tools/benchmarks/gpu_stages.py) runs in a separate process with a time limit. Its values are written as
soon as it ends, one JSON line each, so that an interrupted part keeps what it measured. --rehearse: tiny sizes on the
null GPU (tests/null_gpu), to test the stages themselves.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
Rows = list[dict[str, Any]]
STAGES = ROOT / "tools" / "benchmarks" / "gpu_stages.py"
PACKAGES = ["torch", "torchvision", "triton", "numpy", "basicsr", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12"]
REHEARSAL = 4  # times the limits, on a few busy cores
CLOCKS = "clocks.sm,clocks.mem,power.draw,temperature.gpu"


class Stage(NamedTuple):
    """words: the arguments of gpu_stages.py. limit: seconds after which it is stopped."""

    words: list[str]
    limit: float


PARTS = {
    "A": [
        Stage(["syncs"], 50),
        Stage(["parity"], 60),
        Stage(["steps", "--batch", "12"], 130),
        Stage(["steps", "--batch", "48"], 140),
        Stage(["profile"], 50),
        Stage(["other"], 110),
    ],
    "B": [
        Stage(["generator"], 120),
        Stage(["real-run"], 80),
        Stage(["upscaling"], 180),
        Stage(["memory"], 150),
    ],
    "C": [
        Stage(["resume"], 80),
        Stage(["saving"], 50),
        Stage(["too-small"], 30),
        Stage(["validation"], 40),
        Stage(["sharded"], 120),
        Stage(["quality"], 220),
    ],
}


def measure(stage: Stage, *, tiny: bool, other: Path | None, cache: Path) -> Rows:
    """Run a stage. Returns the lines of the file; the last one has the error where the stage failed."""
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder, "rows.jsonl"), Path(folder, "log")
        line = [sys.executable, str(STAGES), *stage.words, "--rows", str(file)]
        line += ["--tiny"] if tiny else []
        line += ["--other", str(other)] if other else []
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        env["TORCHINDUCTOR_CACHE_DIR"] = str(cache)  # what was compiled before the limit is not compiled again
        if tiny:
            from tests import null_gpu

            env |= {"OMP_NUM_THREADS": "1", **null_gpu.environment()}
        began = time.monotonic()
        limit = stage.limit * (REHEARSAL if tiny else 1)
        code, clocks = _limited(line, env, log, limit)
        rows: Rows = [json.loads(row) for row in file.read_text().splitlines()] if file.exists() else []
        if code:
            last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
            error = f"stopped after {limit:g} s" if code == 124 else last[:500]
            rows.append({"name": stage.words[0], "value": None, "goal": None, "bound": "", "met": False, "note": error})
        facts = {"stage": " ".join(stage.words), "code": code, "seconds": round(time.monotonic() - began, 1)}
        return [row | facts | {"clocks": clocks} for row in rows]


def _limited(line: list[str], env: dict[str, str], log: Path, limit: float) -> tuple[int, list[str]]:
    """Run a command with a time limit, in a group of processes that ends with it.

    Returns its exit code (124: stopped) and the clocks every few seconds.
    """
    clocks, deadline = [], time.monotonic() + limit
    with log.open("w") as output:
        process = subprocess.Popen(line, cwd=ROOT, env=env, stdout=output, stderr=output, start_new_session=True)
        try:
            while True:
                try:
                    return process.wait(timeout=max(min(5.0, deadline - time.monotonic()), 0.01)), clocks
                except subprocess.TimeoutExpired:
                    clocks.append(query(CLOCKS))
                if time.monotonic() >= deadline:
                    return 124, clocks
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()


def query(what: str) -> str:
    """Return what nvidia-smi knows about the first GPU; "" without it."""
    line = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(line, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def machine() -> dict[str, str]:
    """Return the GPU, the versions, and the commit."""
    found = {"gpu": query("name,driver_version,power.limit,clocks.max.sm"), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return found | {"commit": commit.stdout.strip(), "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def compare(files: Sequence[Path]) -> str:
    """Return a Markdown table with a column of values for each file."""
    rows: dict[str, list[str]] = {}
    goals: dict[str, str] = {}
    for number, file in enumerate(files):
        for row in map(json.loads, file.read_text().splitlines()):
            value = row["note"] or "failed" if row["value"] is None else f"{row['value']:.3g}"
            shown = rows.setdefault(row["name"], [""] * len(files))
            shown[number] = value + {True: "", False: " (not met)", None: ""}[row["met"]]
            sign = "" if row["goal"] is None else "≥ " if row["bound"] == "least" else "≤ "
            goals[row["name"]] = sign + ("" if row["goal"] is None else f"{row['goal']:.3g}")
    head = ["value", "goal", *(file.stem for file in files)]
    lines = [head, ["---"] * len(head), *([name, goals[name], *values] for name, values in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS))
    parser.add_argument("--out", type=Path, metavar="FILE", help="append one JSON line per value")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="run only these stages of the part")
    parser.add_argument("--other", type=Path, metavar="PATH", help="a checkout of traiNNer-redux to compare with")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the null GPU")
    parser.add_argument("--compare", type=Path, nargs="+", metavar="FILE", help="print a table of these files")
    args = parser.parse_args(argv)
    if args.compare:
        print(compare(args.compare))
        return 0
    if args.part is None or args.out is None:
        parser.error("give --part and --out, or --compare")
    facts, cache = machine(), args.out.resolve().with_suffix(".compiled")
    with args.out.open("a") as file:
        for stage in PARTS[args.part]:
            if args.only and stage.words[0] not in args.only:
                continue
            for row in measure(stage, tiny=args.rehearse, other=args.other, cache=cache):
                file.write(json.dumps(row | facts) + "\n")
                file.flush()
                shown = row["note"] if row["value"] is None else f"{row['value']:.4g}"
                print(f"{row['name']}: {shown}{' (goal not met)' if row['met'] is False else ''}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
