"""Shared by all benchmarks: measure alternatives in alternating order (A B A B) in one process, and format the rows."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from held_memory import kept_bytes, peak_bytes
from PIL import Image, ImageDraw
from torch import Tensor

MIB = 2**20
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TRIES = 3  # attempts of a measurement that other processes disturbed
PATIENCE = 1.0  # seconds for one matrix product at most
Output = Tensor | Mapping[str, Tensor] | None


@dataclass
class Arm:
    """One alternative. The first arm of a comparison is the reference of the others.

    Attributes:
        name: Name of the arm in the row.
        run: Does the work once.
        output: Does the work once, untimed, and returns tensors by name to compare with the first arm's; None: `run`.
        reset: Called before every run, untimed.
        dtype: Key of DTYPES for the peak of the device.
        operations: Floating point operations of a run, for the share of the measured peak of torch.mm in `dtype`.
        items: Number of items (`unit`) that a run produces.
        unit: Name of the items.
        note: Printed in the row.
        helpers: Whether the arm uses worker processes, whose load is not a disturbance.
    """

    name: str
    run: Callable[[], Output]
    output: Callable[[], Output] | None = None
    reset: Callable[[], object] = lambda: None
    dtype: str = "fp32"
    operations: float = 0.0
    items: float = 1.0
    unit: str = "images"
    note: str = ""
    helpers: bool = False


@dataclass
class Row:
    """The result of an arm.

    Attributes:
        seconds, low, high: Median, minimum and maximum time.
        ratio: Time of the first arm over that of this arm, median over the rounds; > 1 is faster than the first arm.
        disturbed: Rounds in which other processes used more than an eighth of a core in all TRIES.
        peak: Largest number of bytes allocated beyond those at the start.
        kept: Bytes saved for the backward pass.
    """

    work: str
    arm: str
    seconds: float
    low: float
    high: float
    rounds: int
    ratio: float
    rate: float
    unit: str
    disturbed: int = 0
    share: float | None = None
    peak: int | None = None
    kept: int | None = None
    deviation: dict[str, dict[str, float]] = field(default_factory=dict)
    note: str = ""


def compare(work: str, arms: Sequence[Arm], *, rounds: int, device: torch.device, memory: bool = True) -> list[Row]:
    """Run each arm once for its output and memory, then time all arms alternately for `rounds` rounds.

    A measurement is repeated if other processes disturbed it; only their CPU time decides, never the measured time.

    Args:
        work: Name of the comparison.
        arms: The alternatives; the first one is the reference.
        rounds: Number of timed rounds.
        device: Device to synchronize.
        memory: Also measure `peak` and `kept` in one more run each (allocations of torch only; see `peak_bytes`).
    """
    wanted: Mapping[str, Tensor] = {}
    rows = []
    for number, arm in enumerate(arms):
        arm.reset()
        got = _named((arm.output or arm.run)())
        wanted = got if number == 0 else wanted
        row = Row(work, arm.name, 0, 0, 0, rounds, 1.0, 0, arm.unit, note=arm.note)
        row.deviation = {} if number == 0 else {n: deviation(got[n], wanted[n]) for n in wanted.keys() & got.keys()}
        if memory:
            arm.reset()
            row.peak = peak_bytes(device, arm.run)
            arm.reset()
            row.kept = kept_bytes(arm.run)
        rows.append(row)
    times: list[list[float]] = [[] for _ in arms]
    for _ in range(rounds):
        for arm, row, seconds in zip(arms, rows, times, strict=True):
            for left in reversed(range(TRIES)):
                arm.reset()
                spent, others = timed(arm.run, device, helpers=arm.helpers)
                disturbed = spent > 0.1 and others > spent / 8  # the resolution of /proc/stat is too coarse for less
                if not disturbed or not left:
                    break
            seconds.append(spent)
            row.disturbed += disturbed
    for arm, row, seconds in zip(arms, rows, times, strict=True):
        row.seconds, row.low, row.high = statistics.median(seconds), min(seconds), max(seconds)
        row.ratio = statistics.median(first / own for first, own in zip(times[0], seconds, strict=True))
        row.rate = arm.items / row.seconds
        if arm.operations:
            row.share = arm.operations / row.seconds / matmul_peak(device, arm.dtype)
    return rows


# ---- time ----------------------------------------------------------------------------------------------------------


def timed(run: Callable[[], object], device: torch.device, *, helpers: bool = False) -> tuple[float, float]:
    """Return the seconds of `run` including device work, and the core seconds that other processes used meanwhile.

    With `helpers`, only time stolen by other guests of the host counts.
    """
    wait(device)
    (busy, stolen), own, began = _busy(), _own(), time.perf_counter()
    run()
    wait(device)
    spent = time.perf_counter() - began
    then, lost = _busy()
    others = 0.0 if helpers else max(0.0, then - busy - (_own() - own))
    return spent, others + lost - stolen


def wait(device: torch.device) -> None:
    """Wait for queued device work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _own() -> float:
    """Return the core seconds of this process and of its finished child processes."""
    return sum(os.times()[:4])


def _busy() -> tuple[float, float]:
    """Return the core seconds used by all processes of this machine and those stolen by its host; 0 if unknown."""
    with suppress(OSError, ValueError):
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
        ticks = os.sysconf("SC_CLK_TCK")
        return (user + nice + system + irq + softirq) / ticks, steal / ticks
    return 0.0, 0.0


@lru_cache
def matmul_peak(device: torch.device, dtype: str) -> float:
    """Return the floating point operations per second of torch.mm, the best of a few sizes and attempts.

    Sizes that would take longer than PATIENCE are skipped: torch.mm is 100 times slower for emulated types.
    """
    best = 0.0
    for size in (1024, 4096, 8192) if device.type == "cuda" else (256, 1024, 2048):
        if best and 2 * size**3 / best > PATIENCE:
            break
        a, b = (torch.randn(size, size, device=device).to(DTYPES[dtype]) for _ in range(2))
        torch.mm(a, b)
        for _ in range(5):
            best = max(best, 2 * size**3 / timed(lambda a=a, b=b: torch.mm(a, b), device)[0])
    return best


# ---- deviation -----------------------------------------------------------------------------------------------------


def deviation(got: Tensor, wanted: Tensor) -> dict[str, float]:
    """Compare with a reference: largest difference (`max`), cosine similarity, and ratio of norms."""
    a, b = got.detach().double().flatten(), wanted.detach().double().flatten()
    lengths = a.norm(), b.norm()
    cosine = float(a @ b / (lengths[0] * lengths[1]).clamp(min=1e-300))
    return {"max": float((a - b).abs().max()), "cosine": cosine, "norm": float(lengths[0] / lengths[1])}


def _named(output: Output) -> Mapping[str, Tensor]:
    if output is None:
        return {}
    # copies, because the next run may reuse the memory
    return {n: t.detach().clone() for n, t in ({"output": output} if isinstance(output, Tensor) else output).items()}


# ---- output --------------------------------------------------------------------------------------------------------


def machine(device: torch.device) -> dict[str, Any]:
    """Return the facts that the figures depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    facts = {"date": date.today().isoformat(), "device": name, "threads": torch.get_num_threads()}
    facts |= {"torch": torch.__version__, "python": platform.python_version()}
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.max.sm", "--format=csv,noheader"]
        with suppress(OSError, subprocess.SubprocessError):
            clocks = subprocess.run([*query, f"--id={device.index or 0}"], capture_output=True, text=True, timeout=30)
            facts["clock"] = clocks.stdout.strip()
        facts["tf32"] = torch.backends.cuda.matmul.allow_tf32
    else:
        facts["instructions"] = torch.backends.cpu.get_cpu_capability()
    return facts


def _processor() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


HEAD = ["work", "arm", "median s", "least..most", "ratio", "per s", "of peak", "peak MiB", "kept MiB", "deviation"]


def table(rows: Sequence[Row]) -> str:
    """Format the rows as a Markdown table."""
    lines = [HEAD, ["---"] * len(HEAD), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row) -> list[str]:
    off = ("max {max:.2g}, cos {cosine:.4f}, norm {norm:.3f}".format(**d) + f" ({n})" for n, d in row.deviation.items())
    return [
        row.work,
        row.arm + (f" ({row.note})" if row.note else ""),
        f"{row.seconds:.4g}",
        f"{row.low:.4g}..{row.high:.4g}, n {row.rounds}" + (f", {row.disturbed} disturbed" if row.disturbed else ""),
        f"{row.ratio:.2f}",
        f"{row.rate:.4g} {row.unit}",
        "" if row.share is None else f"{row.share:.0%}",
        "" if row.peak is None else f"{row.peak / MIB:.0f}",
        "" if row.kept is None else f"{row.kept / MIB:.0f}",
        "; ".join(off),
    ]


def write_json(file: Path, facts: Mapping[str, Any], rows: Sequence[Row]) -> None:
    file.write_text(json.dumps({"machine": dict(facts), "rows": [asdict(row) for row in rows]}, indent=1))


def plot(file: Path, facts: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Draw a bar per row with the length of its ratio."""
    unit = 560 / max(row.ratio for row in rows)
    canvas = Image.new("RGB", (900, 40 + 34 * len(rows)), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((8, 8), ", ".join(f"{key} {value}" for key, value in facts.items())[:140], fill="black")
    for number, row in enumerate(rows):
        top = 36 + 34 * number
        pen.rectangle((8, top + 13, 8 + unit * row.ratio, top + 27), fill="#999" if row.ratio == 1 else "#c33")
        pen.text((8, top), f"{row.work}: {row.arm}", fill="black")
        pen.text((14 + unit * row.ratio, top + 13), f"{row.ratio:.2f}x, {row.seconds:.4g} s", fill="black")
    canvas.save(file)
