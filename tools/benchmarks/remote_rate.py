"""What cached remote shards cost: samples/s of a local folder of shards and of the same over HTTP, in turns.

`python tools/benchmarks/remote_rate.py FOLDER [--samples 400] [--rounds 7]` serves FOLDER (made by `sr shard`) on
127.0.0.1,
lets every shard come once, and then reads the same samples from both by turns, in one process: the order, the hook that
tells of coming shards, read and decode, as a training worker does it. Rates are per second of this process's CPU
time, which other programs on the machine disturb least; wall-clock rates stand beside them.
"""

import argparse
import functools
import http.server
import statistics
import tempfile
import threading
import time
from pathlib import Path

from sr.data import ShardSource
from sr.data.mix import Route


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def rates(source: ShardSource, first: int, samples: int) -> tuple[float, float]:
    """(per CPU second, per second) over `samples` positions of the order from `first` on."""
    route = Route([(source, 1.0)], seed=0)
    wall, cpu = time.perf_counter(), time.process_time()
    for position in range(first, first + samples):
        _, shard, index = route(position)
        source.read(shard, index)
    return samples / (time.process_time() - cpu), samples / (time.perf_counter() - wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(args.folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as cache:
        local = ShardSource(path=str(args.folder))
        remote = ShardSource(path=f"http://127.0.0.1:{server.server_port}/", cache=cache)
        for source in (local, remote):  # every shard is fetched, and in the page cache
            rates(source, 0, sum(source.counts))
        pairs = [[rates(source, 0, args.samples) for source in (local, remote)] for _ in range(args.rounds)]
        server.shutdown()
    for column, unit in enumerate(("CPU second", "second")):
        here, away = ([pair[side][column] for pair in pairs] for side in (0, 1))
        ratio = statistics.median(b / a for a, b in zip(here, away, strict=True))
        print(f"samples per {unit}: local {max(here):.1f}, remote {max(away):.1f}, best of {args.rounds};", end=" ")
        print(f"remote over local, median of pairs {ratio:.4f}")


if __name__ == "__main__":
    main()
