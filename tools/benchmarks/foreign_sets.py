"""Every kind of data source: bytes that a run reads before its first step and in 100 steps, and exact resume.

Sets shaped as img2dataset writes them (image, JSON and caption per key) stand behind a local HTTP server that counts
bytes, with the counts of several publishers and with none; then our own shards, a stub of the Hugging Face hub, and
Parquet, LMDB and folders. "Resume" compares the crops of the second half of the steps with those that two ranks read
from the same position, with an empty cache.
"""

import argparse
import io
import json
import re
import tarfile
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hub_stub import hub

from sr.data import FolderSource, LmdbSource, ParquetSource, ShardSource, scan
from sr.data.loader import Loader
from sr.data.make_index import make_index
from sr.data.make_shards import make_shards
from sr.images import encode_rgb

CROP = {"seed": 1, "scale": 4, "gt_size": 16, "degrade_size": 16, "flip": True, "rotate": True}


class Counting(SimpleHTTPRequestHandler):
    """Serves files and ranges of them; `server.sent` counts bytes, `server.requests` requests."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        self.server.requests[path.suffix] += 1  # type: ignore[attr-defined]
        if not path.is_file():
            self.send_error(404)
            return
        given = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        size = path.stat().st_size
        first, last = (int(given[1]), min(int(given[2] or size), size - 1)) if given else (0, size - 1)
        self.send_response(206 if given else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"1"')
        if given:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        with open(path, "rb") as file:
            file.seek(first)
            self.wfile.write(file.read(last - first + 1))
        self.server.sent[path.suffix] += last - first + 1  # type: ignore[attr-defined]

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Counting(*a, directory=str(folder)))
    server.sent, server.requests = Counter(), Counter()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Sets:
    """One set of images in every form, below `root`; forms are written on first use."""

    def __init__(self, root: Path, shards: int, samples: int, side: int) -> None:
        self.root, self.shards, self.samples = root, shards, samples
        self.names = [f"{number:05d}.tar" for number in range(shards)]
        self.pattern = f"{{00000..{shards - 1:05d}}}.tar"
        draw = np.random.default_rng(0)
        (root / "photos").mkdir()
        for number in range(shards * samples):
            pixels = draw.integers(0, 256, (side, side, 3), np.uint8)
            (root / "photos" / f"{number:06d}.png").write_bytes(encode_rgb(pixels, "png"))

    def images(self, shard: int) -> list[Path]:
        numbers = range(shard * self.samples, (shard + 1) * self.samples)
        return [self.root / "photos" / f"{number:06d}.png" for number in numbers]

    def tars(self) -> Path:
        """Tars as img2dataset writes them."""
        folder = self.root / "set"
        if folder.exists():
            return folder
        folder.mkdir()
        for shard, name in enumerate(self.names):
            with tarfile.open(folder / name, "w") as tar:
                for image in self.images(shard):
                    for suffix, data in (("png", image.read_bytes()), ("json", b"{}"), ("txt", b"caption")):
                        info = tarfile.TarInfo(f"{image.stem}.{suffix}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
        return folder

    def publish_counts(self, kind: str) -> None:
        """Write the counts of one kind next to the tars, and no others."""
        folder = self.tars()
        for file in folder.glob("*.json"):
            file.unlink()
        if kind == "timm":
            splits = {"train": {"filenames": self.names, "shard_lengths": [self.samples] * self.shards}}
            (folder / "_info.json").write_text(json.dumps({"splits": splits}))
        elif kind == "wids":
            rows = [{"url": name, "nsamples": self.samples} for name in self.names]
            (folder / "wids.json").write_text(json.dumps({"shardlist": rows}))
        for name in self.names if kind in ("img2dataset", "webshart") else ():
            ending, content = "_stats.json", json.dumps({"successes": self.samples})
            if kind == "webshart":
                ending, content = ".json", webshart_json(folder / name)
            (folder / name.replace(".tar", ending)).write_text(content)

    def own(self) -> None:
        make_shards(self.root / "photos", self.root / "own", size=None, per_shard=self.samples, progress=False)

    def parquet(self) -> None:
        import pyarrow
        from pyarrow import parquet

        (self.root / "parquet").mkdir()
        groups = 10  # shards of the tars per file
        for first in range(0, self.shards, groups):
            rows = [image for shard in range(first, min(first + groups, self.shards)) for image in self.images(shard)]
            table = pyarrow.table({"image": [{"bytes": image.read_bytes(), "path": image.name} for image in rows]})
            file = self.root / "parquet" / f"{first:05d}.parquet"
            parquet.write_table(table, file, row_group_size=self.samples)

    def lmdb(self) -> None:
        import lmdb

        images = sorted((self.root / "photos").iterdir())
        size = 2 * sum(image.stat().st_size for image in images) + (1 << 24)
        with lmdb.open(str(self.root / "x.lmdb"), map_size=size) as database, database.begin(write=True) as transaction:
            for image in images:
                transaction.put(image.stem.encode(), image.read_bytes())
        lines = [f"{image.name} (1,1,3) 1\n" for image in images]
        (self.root / "x.lmdb" / "meta_info.txt").write_text("".join(lines))


def webshart_json(tar: Path) -> str:
    """The index of a tar as webshart writes it."""
    with tarfile.open(tar) as archive:
        files = {m.name: {"path": m.name, "offset": m.offset_data, "length": m.size} for m in archive}
    return json.dumps({"path": tar.name, "filesize": tar.stat().st_size, "files": files})


class Case(NamedTuple):
    """A row of the table. prepare: called before. make: returns the source for a cache folder; None for local ones."""

    name: str
    prepare: Callable[[], Any]
    make: Callable[[str], Any]
    sent: Callable[[], int] | None
    around: Any = nullcontext()


def cases(sets: Sets, server: Any) -> Iterator[Case]:
    def sent() -> int:
        return int(server.sent.total())

    tars, index = f"{server.url}/set/{sets.pattern}", str(sets.root / "index.json")
    for name, kind in (
        ("img2dataset tars, `NNNNN_stats.json`", "img2dataset"), ("tars, timm `_info.json`", "timm"),
        ("tars, wids JSON", "wids"), ("tars, webshart JSON", "webshart"), ("plain tars, no counts", "none"),
    ):  # fmt: skip
        yield Case(name, lambda kind=kind: sets.publish_counts(kind), lambda c: ShardSource(path=tars, cache=c), sent)
    yield Case(
        "tars, `sr index`",
        lambda: make_index(tars, index, show=False),
        lambda c: ShardSource(path=tars, cache=c, index=index),
        sent,
    )

    def by_webshart() -> None:
        sets.publish_counts("webshart")
        Path(index).unlink()
        make_index(tars, index, show=False)

    blocks = {"path": tars, "index": index, "read": "blocks"}
    yield Case("tars, `sr index` of webshart JSON, blocks", by_webshart, lambda c: ShardSource(cache=c, **blocks), sent)
    yield Case("own shards", sets.own, lambda c: ShardSource(path=f"{server.url}/own/", cache=c), sent)
    stub = hub(sets.tars())
    remote = Case("plain tars, `hf://` (stub)", lambda: sets.publish_counts("none"), lambda c: None, None)
    with stub as running:
        path = "hf://datasets/me/set/data/*.tar"
        yield remote._replace(make=lambda c: ShardSource(path=path, cache=c), sent=lambda: running.sent)
    files = [f"{server.url}/parquet/{first:05d}.parquet" for first in range(0, sets.shards, 10)]
    yield Case("Parquet", sets.parquet, lambda c: ParquetSource(path=files), sent)
    folder = str(sets.root / "set")
    yield Case("plain tars on a disk", lambda: None, lambda c: ShardSource(path=folder), None)
    yield Case("LMDB of BasicSR", sets.lmdb, lambda c: LmdbSource(gt=str(sets.root / "x.lmdb")), None)
    yield Case("folder", lambda: None, lambda c: FolderSource(gt=str(sets.root / "photos")), None)


def stream(source: Any, consumed: int, steps: int, batch: int, world: int = 1) -> list[np.ndarray]:
    """The crops of `steps` batches, read by `world` ranks, in the order of their positions."""
    loaders = [
        Loader(source, batch_size=batch, rank=rank, world=world, **CROP).batches(consumed) for rank in range(world)
    ]
    rows = []
    for _ in range(steps):
        raws = [next(islice(loader, 1)) for loader in loaders]
        crops = {p: g.gt[i].numpy() for raw in raws for g in raw.groups for i, p in enumerate(g.positions)}
        rows.append(np.stack([crops[position] for position in sorted(crops)]))
    if hasattr(source, "expect"):
        source.expect([])
    return rows


def row(case: Case, *, steps: int, batch: int) -> str:
    before = case.sent() if case.sent else 0
    case.prepare()
    start = case.sent() if case.sent else 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        source = case.make(cache)
        first = stream(source, 0, 1, batch)
        at_one = case.sent() if case.sent else 0
        rest = stream(source, batch, steps - 1, batch)
        at_end = case.sent() if case.sent else 0
    half = steps // 2
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        again = stream(case.make(cache), half * batch, steps - half, batch, world=2)
    exact = all(np.array_equal(a, b) for a, b in zip((first + rest)[half:], again, strict=True))
    figures = (start - before, at_one - start, at_end - start)
    cells = [f"{figure / 1e6:.2f}" for figure in figures] if case.sent else ["0", "local", "local"]
    return f"| {case.name} | yes | {' | '.join(cells)} | {'exact' if exact else 'DIFFERS'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--samples", type=int, default=20, help="per shard (%(default)s)")
    parser.add_argument("--side", type=int, default=160, help="of the images, which are noise (%(default)s: 77 kB)")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--block-mb", type=float, default=0.5, help="size of a block (%(default)s)")
    args = parser.parse_args()
    scan.BLOCK = int(args.block_mb * 1e6)
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as server:
        sets = Sets(Path(name), args.shards, args.samples, args.side)
        total = sum(file.stat().st_size for file in sets.tars().glob("*.tar"))
        print(f"{args.shards} tars, {args.shards * args.samples} samples, {total / 1e6:.1f} MB\n")
        print(
            f"| source | opens | MB for `sr index`, once | MB before step 1 | MB after {args.steps} steps |"
            " resume on 2 ranks, empty cache |"
        )
        print("|---|---|---|---|---|---|")
        for case in cases(sets, server):
            print(row(case, steps=args.steps, batch=args.batch), flush=True)


if __name__ == "__main__":
    main()
