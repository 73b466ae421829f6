"""Train for many steps and check that memory, open files and threads of the processes do not grow.

    python tools/cluster/long_run.py options/quickstart.yml --steps 10000 --set data.workers=1 --set data.batch_size=1

Samples the trainer and its workers every --every seconds, and prints the means over the first and the last quarter of
the run (by time, after the share --warmup). Exit code 0: the run succeeded, resident memory grew by at most the share
--growth, and the numbers of open files and threads did not grow.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """One sample of the trainer and its child processes. resident, trainer: MB of all of them, of the trainer alone."""

    resident: float
    trainer: float
    files: int
    threads: int
    processes: int


def family(pid: int) -> list[int]:
    """Return a process and all of its descendants."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


def sample(pid: int) -> Usage | None:
    """Return the usage of a process and its descendants; None if one of them ended meanwhile."""
    try:
        pids = family(pid)
        statuses = [dict(_rows(f"/proc/{each}/status")) for each in pids]
        resident = [int(each["VmRSS"].split()[0]) / 1024 for each in statuses]
        files = sum(len(os.listdir(f"/proc/{each}/fd")) for each in pids)
        return Usage(sum(resident), resident[0], files, sum(int(each["Threads"]) for each in statuses), len(pids))
    except (OSError, KeyError):
        return None


def _rows(file: str) -> list[tuple[str, str]]:
    return [
        (key, value.strip()) for key, _, value in (line.partition(":") for line in Path(file).read_text().splitlines())
    ]


def watch(command: Sequence[str], every: float) -> tuple[int, list[Usage]]:
    """Run a command; return its exit code and samples of its usage."""
    samples: list[Usage] = []
    with tempfile.TemporaryFile("w+") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        while process.poll() is None:
            time.sleep(every)
            if (usage := sample(process.pid)) is not None:
                samples.append(usage)
        if process.returncode:
            output.seek(0)
            print(output.read()[-2000:], file=sys.stderr)
    return process.returncode, samples


def mean(samples: Sequence[Usage]) -> Usage:
    return Usage(*(statistics.fmean(values) for values in zip(*samples, strict=True)))  # type: ignore[arg-type]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=float, default=0.5, help="seconds between two samples (%(default)s)")
    parser.add_argument("--warmup", type=float, default=0.1, help="share of the time that is ignored (%(default)s)")
    parser.add_argument("--growth", type=float, default=0.02, help="allowed growth of memory, as a share (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as out:
        sets = [f"--set={one}" for one in [*args.set, f"train.total_steps={args.steps}", f"out={out}"]]
        code, samples = watch([sys.executable, "-m", "sr", "train", args.options, *sets], args.every)
    steady = samples[int(len(samples) * args.warmup) : -1]
    quarter = len(steady) // 4
    if code or not quarter:
        print(f"the run ended with code {code} after {len(samples)} samples; use more --steps", file=sys.stderr)
        return 1
    first, last = mean(steady[:quarter]), mean(steady[-quarter:])
    print(f"{args.steps} steps in {time.monotonic() - began:.0f} s, {len(samples)} samples")
    print("| | resident, all | trainer alone | open files | threads | processes |\n|---|---|---|---|---|---|")
    for name, usage in (("first quarter", first), ("last quarter", last)):
        print(f"| {name} | {usage.resident:.1f} MB | {usage.trainer:.1f} MB | ", end="")
        print(f"{usage.files:.1f} | {usage.threads:.1f} | {usage.processes:.1f} |")
    grown = last.resident > first.resident * (1 + args.growth)
    more = last.files > first.files + 1 or last.threads > first.threads + 1
    return 1 if grown or more else 0


if __name__ == "__main__":
    sys.exit(main())
