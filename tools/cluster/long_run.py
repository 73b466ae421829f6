"""Train for many steps and see what the processes hold: memory, open files and threads have to stay what they were.

    python tools/cluster/long_run.py options/quickstart.yml --steps 10000 --set data.workers=1 --set data.batch_size=1

Looks at the trainer and its workers every --every seconds, and prints the means over the first and the last quarter of
the run (by time, after --warmup of it). Exit code 0 when the run ended well and nothing grew: resident memory by at
most --growth of itself, open files and threads not at all.
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
    """At one moment, over the trainer and all below it. resident: MB, and those of the trainer alone."""

    resident: float
    trainer: float
    files: int
    threads: int
    processes: int


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


def looked(pid: int) -> Usage | None:
    """None where one of them ended meanwhile."""
    try:
        pids = family(pid)
        told = [dict(_rows(f"/proc/{each}/status")) for each in pids]
        resident = [int(each["VmRSS"].split()[0]) / 1024 for each in told]
        files = sum(len(os.listdir(f"/proc/{each}/fd")) for each in pids)
        return Usage(sum(resident), resident[0], files, sum(int(each["Threads"]) for each in told), len(pids))
    except (OSError, KeyError):
        return None


def _rows(file: str) -> list[tuple[str, str]]:
    return [
        (key, value.strip()) for key, _, value in (line.partition(":") for line in Path(file).read_text().splitlines())
    ]


def watch(command: Sequence[str], every: float) -> tuple[int, list[Usage]]:
    """The exit code of a command, and what was seen of it."""
    looks: list[Usage] = []
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        while process.poll() is None:
            time.sleep(every)
            if (look := looked(process.pid)) is not None:
                looks.append(look)
        if process.returncode:
            said.seek(0)
            print(said.read()[-2000:], file=sys.stderr)
    return process.returncode, looks


def mean(looks: Sequence[Usage]) -> Usage:
    return Usage(*(statistics.fmean(values) for values in zip(*looks, strict=True)))  # type: ignore[arg-type]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=float, default=0.5, help="seconds between two looks (%(default)s)")
    parser.add_argument("--warmup", type=float, default=0.1, help="share of the time that does not count (%(default)s)")
    parser.add_argument("--growth", type=float, default=0.02, help="of memory, as a share (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as out:
        sets = [f"--set={one}" for one in [*args.set, f"train.total_steps={args.steps}", f"out={out}"]]
        code, looks = watch([sys.executable, "-m", "sr", "train", args.options, *sets], args.every)
    steady = looks[int(len(looks) * args.warmup) : -1]
    quarter = len(steady) // 4
    if code or not quarter:
        print(f"the run ended with code {code} after {len(looks)} looks, too few to tell", file=sys.stderr)
        return 1
    first, last = mean(steady[:quarter]), mean(steady[-quarter:])
    print(f"{args.steps} steps in {time.monotonic() - began:.0f} s, {len(looks)} looks")
    print("| | resident, all | trainer alone | open files | threads | processes |\n|---|---|---|---|---|---|")
    for name, look in (("first quarter", first), ("last quarter", last)):
        print(f"| {name} | {look.resident:.1f} MB | {look.trainer:.1f} MB | ", end="")
        print(f"{look.files:.1f} | {look.threads:.1f} | {look.processes:.1f} |")
    grown = last.resident > first.resident * (1 + args.growth)
    more = last.files > first.files + 1 or last.threads > first.threads + 1
    return 1 if grown or more else 0


if __name__ == "__main__":
    sys.exit(main())
