"""Simulate the data of 1,000 ranks over 50,000 remote shards: requests, cache hits, bytes, start and resume times.

The sampling order, the prefetch and the opening of the source are those of a run; downloads are counted and not made.
Each node has a cache with eviction of the least recently used shards. "Used" is the share of the downloaded bytes that
the ranks of the node read before the shard is evicted.
"""

import argparse
import tempfile
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sr.data import ShardSource
from sr.data.index import Entry, index_text
from sr.data.mix import Route


class Setting(NamedTuple):
    """A row of the table. size: bytes of a shard. passed: windows that are read; one more is downloaded ahead."""

    nodes: int
    per_node: int
    shards: int
    samples: int
    size: int
    window: int
    cache_gb: float
    micro_batch: int
    passed: int

    @property
    def steps(self) -> int:
        """Steps in which `passed` windows are read."""
        return self.passed * self.window * self.samples // (self.nodes * self.per_node * self.micro_batch)


class Node:
    """The shard cache of a node, and what its ranks ask of it."""

    def __init__(self, limit: float, size: int) -> None:
        self.room, self.requests = max(1, int(limit / size)), Counter[int]()
        self.held, self.coming = OrderedDict[int, None](), set[int]()
        self.reads = self.waits = 0

    def expect(self, shards: Sequence[int]) -> None:
        self.coming = {*shards}
        for shard in shards:
            self._fetch(shard)

    def read(self, shard: int) -> None:
        self.reads += 1
        if shard not in self.held:
            self.waits += 1
            self._fetch(shard)
        self.held.move_to_end(shard)

    def _fetch(self, shard: int) -> None:
        if shard in self.held:
            return
        while len(self.held) >= self.room and (old := next((s for s in self.held if s not in self.coming), None)):
            del self.held[old]
        self.requests[shard] += 1
        self.held[shard] = None


class Counted:
    """A source that only passes its prefetch on to the cache of a node."""

    def __init__(self, counts: Sequence[int], window: int, node: Node) -> None:
        self.counts, self.window, self.expect = counts, window, node.expect


def opened(setting: Setting, folder: Path, position: int) -> tuple[float, Sequence[int]]:
    """CPU seconds until a source is open and the sample at `position` is known; and its counts."""
    names = [f"{number:06d}.tar" for number in range(setting.shards)]
    index = folder / "index.json"
    if not index.exists():
        index.write_text(index_text({name: Entry(setting.samples, setting.size, "0" * 64) for name in names}))
    start = time.process_time()
    path = f"http://host/{{000000..{setting.shards - 1:06d}}}.tar"
    limit = 3 * setting.window * setting.size / 1e9  # of a sparse file; nothing is downloaded
    source = ShardSource(
        path=path, index=str(index), cache=str(folder / "cache"), cache_gb=limit, window=setting.window
    )
    Route([(Counted(source.counts, setting.window, Node(1, 1)), 1.0)], seed=0)(position)
    return time.process_time() - start, source.counts


def simulate(setting: Setting, counts: Sequence[int]) -> list[str]:
    nodes = [Node(setting.cache_gb * 1e9, setting.size) for _ in range(setting.nodes)]
    ranks = [node for node in nodes for _ in range(setting.per_node)]
    # The ranks of a node see the same windows, so they share one route.
    routes = [Route([(Counted(counts, setting.window, node), 1.0)], seed=0) for node in nodes]
    for step in range(setting.steps):
        for rank, node in enumerate(ranks):
            first = (step * len(ranks) + rank) * setting.micro_batch
            for position in range(first, first + setting.micro_batch):
                node.read(routes[rank // setting.per_node](position).shard)
    requests = sum((node.requests for node in nodes), Counter[int]())
    reads, waits = sum(node.reads for node in nodes), sum(node.waits for node in nodes)
    received = sum(requests.values()) * setting.size / setting.nodes * setting.passed / (setting.passed + 1)
    used = reads / setting.nodes * setting.size / setting.samples
    return [
        f"{len(ranks)} on {setting.nodes}", str(setting.window), f"{setting.cache_gb:g}",
        f"{sum(requests.values()) / len(requests):.0f}", f"{1 - waits / reads:.1%}",
        f"{received / setting.steps / 1e9:.2f}", f"{used / received:.1%}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--nodes", type=int, nargs="+", default=[1, 4, 16, 125], help="of --per-node ranks (%(default)s)")
    add("--per-node", type=int, default=8, help="ranks of a node (%(default)s)")
    add("--shards", type=int, default=50_000)
    add("--samples", type=int, default=1000, help="per shard (%(default)s)")
    add("--mb", type=float, default=300, help="size of a shard (%(default)s)")
    add("--windows", type=int, nargs="+", default=[16, 64], help="shards that are read from at a time (%(default)s)")
    add("--cache-gb", type=float, default=50)
    add("--micro-batch", type=int, default=12, help="samples of a rank and step (%(default)s)")
    add("--passed", type=int, default=4, help="windows that are read (%(default)s)")
    args = parser.parse_args()
    print(
        "| ranks | window | cache GB | requests per shard | cache hits | GB per node and step | of these used |"
        " start-up, CPU s | resume, CPU s |\n|---|---|---|---|---|---|---|---|---|"
    )
    for nodes in args.nodes:
        for window in args.windows:
            setting = Setting(
                nodes, args.per_node, args.shards, args.samples, int(args.mb * 1e6), window, args.cache_gb,
                args.micro_batch, args.passed,
            )  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                start, counts = opened(setting, Path(folder), 0)
                resume, _ = opened(setting, Path(folder), int(0.9 * args.shards * args.samples))
            print(f"| {' | '.join([*simulate(setting, counts), f'{start:.2f}', f'{resume:.2f}'])} |", flush=True)


if __name__ == "__main__":
    main()
