"""Run every subject of benchmark.py and print a table of the figures and the goals.

    python tools/benchmarks/benchmark_table.py --photos PHOTOS --json table.json

Every subject runs in a separate process, whose output goes to standard error; the Markdown table goes to standard
output. Takes 15 minutes on two idle CPU cores. --photos: see `benchmark.py data --help`. --only: some subjects.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sr.nets.device import fast_half_types

HERE = Path(__file__).parent
Row = dict[str, Any]
Rows = list[Row]


class Goal(NamedTuple):
    """A goal.

    Attributes:
        work: Name in the table.
        of: The subject whose rows hold the value.
        value: Returns the value and its text from these rows; None if they do not contain it.
        cpu, cuda: The bound on each device; None: no goal.
        least: Whether the value must be at least the bound, or at most.
    """

    work: str
    of: str
    value: Callable[[Rows], tuple[float, str] | None]
    cpu: float | None
    cuda: float | None
    least: bool = True


# ---- values of rows --------------------------------------------------------------------------------------------------


def _row(rows: Rows, work: str, arm: str) -> Row | None:
    """Return the first row whose names start with these."""
    return next((row for row in rows if row["work"].startswith(work) and row["arm"].startswith(arm)), None)


def ratio(work: str, arm: str) -> Callable[[Rows], tuple[float, str] | None]:
    """Return the speedup over the reference and the deviation of the output."""

    def value(rows: Rows) -> tuple[float, str] | None:
        row = _row(rows, work, arm)
        if row is None:
            return None
        off = max((found["max"] for found in row["deviation"].values()), default=None)
        deviates = f", off by {off * 255:.2g}/255" if off is not None and work in ("image", "folder") else ""
        return row["ratio"], f"{row['ratio']:.2f}x ({row['arm']}{deviates})"

    return value


def memory(rows: Rows) -> tuple[float, str] | None:
    """Return the peak memory in our default precision relative to the reference."""
    reference, ours = rows[:2]
    part = ours["peak"] / reference["peak"]
    others = "".join(f"; {row['arm']}: {row['peak'] / reference['peak']:.2f}" for row in rows[2:])
    return part, f"{part:.2f} at {ours['ratio']:.2f}x the speed ({ours['arm']}{others})"


def share(arm: str) -> Callable[[Rows], tuple[float, str] | None]:
    """Return the share of the rate of torch.mm in the same precision."""

    def value(rows: Rows) -> tuple[float, str] | None:
        row = _row(rows, "generator", arm)
        return None if row is None else (row["share"], f"{row['share']:.0%}")

    return value


def logging(rows: Rows) -> tuple[float, str] | None:
    row = _row(rows, "a step", "logs")
    return None if row is None else (1 / row["ratio"], f"{1 / row['ratio']:.2f} of a plain step")


def saving(rows: Rows) -> tuple[float, str] | None:
    """Return the cost of a save in its own step and in the next one (a round is two steps, so it counts twice)."""
    row = _row(rows, "two steps", "the first saves")
    return None if row is None else (cost := 1 + 2 * (1 / row["ratio"] - 1), f"{cost:.2f} of a plain step")


def seconds(work: str, arm: str) -> Callable[[Rows], tuple[float, str] | None]:
    def value(rows: Rows) -> tuple[float, str] | None:
        row = _row(rows, work, arm)
        return None if row is None else (row["seconds"], f"{row['seconds']:.3g} s")

    return value


# ---- goals -----------------------------------------------------------------------------------------------------------

GOALS = [
    Goal("GAN step, our default precision", "step", ratio("gan", "ours"), 5.5, 6.0),
    Goal("the same, compiled", "step", ratio("gan", "ours, compiled"), None, 6.0),
    Goal("GAN step, fp32", "step", ratio("gan", "ours, fp32"), 1.2, 1.5),
    Goal("peak memory of generator training", "generator", memory, 1 / 4, 1 / 3, least=False),
    Goal("generator in bf16, of the peak of torch.mm", "generator", share("ours, bf16"), None, 0.35),
    Goal("the same, compiled", "generator", share("ours, compiled"), None, 0.35),
    Goal("degradation, gt 400", "degrade", ratio("degradation", "ours"), 8.0, 8.0),
    Goal("the same, cropped first", "degrade", ratio("degradation", "ours, cropped"), 8.0, 8.0),
    Goal("kernels of a batch of 48", "degrade", ratio("blur kernels", "ours"), 3.0, None),
    Goal("one loader worker, PNG", "data", ratio("one worker, images", "ours, PNG"), 1.4, None),
    Goal("one loader worker, JPEG 4:2:0", "data", ratio("one worker, images", "ours, JPEG 4:2:0"), 4.0, None),
    Goal("one loader worker, JPEG 4:4:4", "data", ratio("one worker, images", "ours, JPEG 4:4:4"), 4.0, None),
    Goal("one loader worker, npy", "data", ratio("one worker, images", "ours, npy"), 9.0, None),
    Goal("upscaling a folder, default", "upscale", ratio("folder", "ours, default"), 3.5, 4.0),
    Goal("upscaling an image, default", "upscale", ratio("image", "ours, default"), 3.5, 4.0),
    Goal("upscaling a folder, fastest", "upscale", ratio("folder", "ours, bf16"), 5.5, 8.0),
    Goal("step that logs", "overhead", logging, 1.02, 1.02, least=False),
    Goal("step that saves", "overhead", saving, 1.05, 1.05, least=False),
    Goal("start to the first batch", "start", seconds("start", "ours"), 15.0, 60.0, least=False),
    Goal("sample 400 M of 500 M", "resume", seconds("sample", "the first 1 "), 1.0, None, least=False),
]


def commands(device: str, photos: Path | None) -> dict[str, list[str]]:
    """Return the arguments of each subject: small sizes on a CPU, those of training on a GPU."""
    cuda = device == "cuda"
    images, pairs, compiled = ("12", "10", ["--compile"]) if cuda else ("2", "4", [])
    faster = torch.bfloat16 in fast_half_types(torch.device(device))
    return {
        "step": ["step", "--batch", images, "--pairs", pairs, "--no-memory", *compiled],
        "generator": ["step", "--part", "generator", "--precision", "auto", "bf16", "--pairs", "3", *compiled]
        + (["--batch", images] if cuda else ["--gt", "128"]),
        "overhead": ["overhead", "--batch", images, "--pairs", pairs],
        "start": ["overhead", "--part", "start", "--pairs", "3"],
        "data": ["data", "--pairs", "5", "--samples", "36", "--large", "0", "--batches", "16"]
        + (["--photos", str(photos)] if photos else []),
        "degrade": ["degrade", "--pairs", "3", "--no-memory"] + (["--batch", images] if cuda else ["--batches", "2"]),
        "upscale": ["upscale", "--pairs", "3", "--no-memory", "--arms", "ours, default"]
        + ["ours, bf16"] * faster
        + ([] if cuda else ["--size", "96", "160", "--images", "2"]),
        "resume": ["resume", "--pairs", "3"],
    }


def measure(words: list[str], device: str) -> tuple[dict[str, Any], Rows]:
    """Run one subject; return its facts and rows.

    Raises:
        subprocess.CalledProcessError: The subject failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        line = [sys.executable, str(HERE / "benchmark.py"), *words, "--device", device, "--json", str(file)]
        print(f"\n$ benchmark.py {' '.join(words)}", file=sys.stderr, flush=True)
        subprocess.run(line, check=True, stdout=sys.stderr)
        found = json.loads(file.read_text())
    return found["machine"], found["rows"]


def table(found: dict[str, Rows], device: str) -> str:
    lines = ["| work | measured | goal | |", "|---|---|---|---|"]
    for goal in GOALS:
        bound = goal.cuda if device == "cuda" else goal.cpu
        value = goal.value(found[goal.of]) if goal.of in found else None
        sign = "at least" if goal.least else "at most"
        met = bound is not None and value is not None and (value[0] >= bound if goal.least else value[0] <= bound)
        aim = "" if bound is None else f"{sign} {bound:g}"
        words = "met" if met else "" if bound is None or value is None else "not met"
        lines.append(f"| {goal.work} | {'not measured' if value is None else value[1]} | {aim} | {words} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--photos", type=Path, help="folder of photographs of the subject data")
    parser.add_argument("--only", nargs="+", choices=sorted({goal.of for goal in GOALS}), help="subjects (all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows as JSON")
    args = parser.parse_args()
    facts: dict[str, Any] = {}
    found: dict[str, Rows] = {}
    for name, words in commands(args.device, args.photos).items():
        if args.only is None or name in args.only:
            try:
                facts, found[name] = measure(words, args.device)
                if args.json:  # after each subject, so that an interrupted run keeps what it measured
                    args.json.write_text(json.dumps({"machine": facts, "rows": found}, indent=1))
            except subprocess.CalledProcessError as error:
                print(f"benchmark_table: {name} failed with exit code {error.returncode}", file=sys.stderr)
    print("\n".join(f"{key}: {value}" for key, value in facts.items() if key != "command"))
    print("\n" + table(found, args.device))
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
