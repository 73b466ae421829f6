"""Compare ours with the reference on this machine: time, memory, deviation, and the share of the peak of torch.mm.

    python tools/benchmarks/benchmark.py step --pairs 5 --json step.json --plot step.png
    python tools/benchmarks/benchmark.py degrade --device cuda

The alternatives run alternately (A B A B) in one process. The ratio is the median over the rounds; > 1 is faster than
the first one. `python tools/benchmarks/benchmark.py SUBJECT --help` describes a subject.
"""

import argparse
import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SUBJECTS = sorted({file.stem.removeprefix("bench_") for file in HERE.glob("bench_*.py")} - {"harness"})


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(dest="subject", required=True)
    modules = {name: importlib.import_module(f"bench_{name}") for name in SUBJECTS}
    for name, module in modules.items():
        text = module.__doc__ or ""
        one = subparsers.add_parser(
            name, help=text.split("\n")[0], description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        _shared(one)
        module.add(one)
    args = parser.parse_args(argv)

    import bench_harness
    import torch

    from sr.core.errors import UserError

    if args.threads:
        torch.set_num_threads(args.threads)
    args.device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if args.device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmark: --device cuda, but torch finds no GPU; remove --device")
    if args.device.type == "cpu" and torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # otherwise our trainer would use the GPU
    try:
        rows = modules[args.subject].run(args)
    except UserError as error:
        sys.exit(f"benchmark: {error}")
    facts = bench_harness.machine(args.device) | {"command": shlex.join(["benchmark.py", *(argv or sys.argv[1:])])}
    print("\n".join(f"{key}: {value}" for key, value in facts.items()) + "\n\n" + bench_harness.table(rows))
    if args.json:
        bench_harness.write_json(args.json, facts, rows)
    if args.plot:
        bench_harness.plot(args.plot, facts, rows)
    return 0


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu or cuda (cuda if available)")
    parser.add_argument("--threads", type=int, help="torch threads on the CPU (all cores)")
    parser.add_argument("--pairs", type=int, default=5, help="rounds (%(default)s)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="do not measure memory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios as a PNG")


if __name__ == "__main__":
    sys.exit(main())
