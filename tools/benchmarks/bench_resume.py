"""Resume within an epoch: find sample 400 million in the index of 500 million samples.

Reads the index.json of the folder, lists the shards, and finds the shard and the sample of that position and of the
next 1000. There is no reference, because the other trainers do not resume within an epoch.
"""

import argparse
import tempfile
from pathlib import Path

from bench_harness import Arm, Row, compare


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", type=int, default=50_000, help="number of shards (%(default)s)")
    parser.add_argument("--per-shard", type=int, default=10_000, help="samples per shard (%(default)s)")
    parser.add_argument("--position", type=int, default=400_000_000, help="position to resume from (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the (empty) files are written (a temporary folder)")


def run(args: argparse.Namespace) -> list[Row]:
    from sr.data import ShardSource
    from sr.data.index import Entry, write_folder_index
    from sr.data.mix import Route

    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        tars = [folder / f"shard-{number:06d}.tar" for number in range(args.shards)]
        for tar in tars:
            tar.touch()
        write_folder_index(folder, {tar.name: Entry(args.per_shard, 10**9, f"{0:064x}") for tar in tars})

        def find(number: int) -> None:
            route = Route([(ShardSource(path=str(folder)), 1.0)], seed=0)
            for position in range(args.position, args.position + number):
                route(position)

        arms = [Arm(f"the first {n} position(s)", lambda n=n: find(n), items=n, unit="samples") for n in (1, 1000)]
        work = f"sample {args.position:,} of {args.shards * args.per_shard:,} in {args.shards:,} shards"
        return compare(work, arms, rounds=args.pairs, device=args.device, memory=False)
