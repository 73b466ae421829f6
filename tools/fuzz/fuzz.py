"""Mutate valid input and count the outcomes: accepted, or refused with one sentence. Anything else is a violation.

    python tools/fuzz/fuzz.py options --cases 800 --seed 0
    python tools/fuzz/fuzz.py images|tars|indexes|checkpoints|... --cases 300 --seed 0

A violation is an exception other than UserError, a case that runs longer than --limit seconds or ends its process,
half-written output, or a sample that is lost without being counted. Each is printed with its number. Case N of a seed
is always the same (`--first N --cases 1` runs it alone). Exit code 1: there are violations.
"""

import argparse
import collections
import multiprocessing as mp
import os
import random
import resource
import sys
import tempfile
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

VERBS = {"conversions": "Conversions", "reports": "Reports", "videos": "Videos", "upscaled_tars": "UpscaledTars"}
REMOTE = {"remote_indexes": "RemoteIndexes", "named_models": "NamedModels"}
KINDS = "options", "images", "tars", "indexes", "checkpoints", *REMOTE, *VERBS
MEMORY = 12 << 30  # bytes of address space for a case, so that a decompression bomb fails
MOST = 20  # number of violations that are printed
START = 180  # seconds to import torch and write the valid files on a busy machine


def kind(name: str, folder: Path) -> Any:
    """Return the callable that mutates and reads one kind of input, see `fuzz_inputs`."""
    import fuzz_inputs  # imports torch, which only the workers need

    if name == "checkpoints":
        from fuzz_checkpoints import Checkpoints

        return Checkpoints(folder)
    if name in REMOTE:
        import fuzz_remote

        return getattr(fuzz_remote, REMOTE[name])(folder)
    if name in VERBS:
        import fuzz_verbs

        return getattr(fuzz_verbs, VERBS[name])(folder)
    return {"options": fuzz_inputs.Options, "images": fuzz_inputs.Images, "tars": fuzz_inputs.Tars}.get(
        name, fuzz_inputs.Indexes
    )(folder)


def case(of: Any, name: str, seed: int, number: int) -> tuple[str, str]:
    """Return (accepted, refused or violation; the message)."""
    try:
        message = of(random.Random(f"{name} {seed} {number}"))
    except Exception as error:
        where = traceback.format_exc().splitlines()[-8:] if type(error).__name__ != "Violation" else []
        return "violation", "\n".join([f"{type(error).__name__}: {str(error)[:600]}", *where])
    return ("accepted", "") if message == "accepted" else ("refused", message)


def work(pipe: Connection, name: str, seed: int, numbers: list[int]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for stream in (sys.stdout, sys.stderr):  # hide decoders and progress bars; outcomes go through the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        of = kind(name, Path(folder))
        pipe.send(None)
        for number in numbers:
            pipe.send((number, *case(of, name, seed, number)))


def outcomes(name: str, seed: int, numbers: list[int], limit: float) -> Iterator[tuple[int, str, str]]:
    """Yield (number, outcome, message) of each case. Their process is replaced when a case hangs or ends it."""
    while numbers:
        mine, theirs = mp.Pipe()
        process = mp.get_context("spawn").Process(target=work, args=(theirs, name, seed, numbers), daemon=True)
        process.start(), theirs.close()
        try:
            if not mine.poll(START):
                raise RuntimeError(f"the valid {name} were not ready after {START} s")
            mine.recv()
            while numbers and mine.poll(limit):
                yield mine.recv()
                numbers = numbers[1:]
            if numbers:
                yield numbers[0], "violation", f"hang: more than {limit:g} s"
                numbers = numbers[1:]
        except EOFError:
            process.join(10)
            yield numbers[0], "violation", f"the process ended with {process.exitcode}"
            numbers = numbers[1:]
        finally:
            process.join(0 if numbers else 10)  # a process that finished its cases removes its files
            process.kill(), process.join(), mine.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=30, help="seconds per case (%(default)s)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N of the messages")
    args = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    shown = 0
    for number, what, message in outcomes(
        args.kind, args.seed, [*range(args.first, args.first + args.cases)], args.limit
    ):
        counts[what] += 1
        if (what == "violation" and counts[what] <= MOST) or (what == "refused" and shown < args.show):
            shown += what == "refused"
            print(f"{args.kind} {number}: {what}: {message.strip()}", flush=True)
    summary = ", ".join(f"{counts[what]} {what}" for what in ("accepted", "refused", "violation"))
    print(f"{args.kind}: {sum(counts.values())} cases of seed {args.seed}: {summary}")
    return 1 if counts["violation"] or sum(counts.values()) != args.cases else 0


if __name__ == "__main__":
    sys.exit(main())
