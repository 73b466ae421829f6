"""Bytes that a run reads from others' data sets before its first step and in 100 steps, and whether it resumes exactly.

Sets shaped as img2dataset writes them (image, JSON and caption per key) stand behind a local HTTP server that counts
bytes: with the index of `sr index`, with the counts of other publishers, and with nothing. "Resume" compares the
stream after half of the steps with a new source on an empty cache that reads the same positions on two ranks.
"""

import argparse
import io
import json
import re
import tarfile
import tempfile
import threading
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sr.data import ShardSource
from sr.data.loader import Loader
from sr.data.make_index import make_index
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


def publish(folder: Path, shards: int, samples: int, kilobytes: int) -> None:
    """Write tars of PNGs with trailing noise, of `kilobytes` each, that decode to their number."""
    noise = np.random.default_rng(0).bytes(kilobytes * 1000)
    for number in range(shards):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for sample in range(samples):
                value = number * samples + sample
                pixels = np.full((16, 16, 3), [value % 256, value // 256 % 256, 0], np.uint8)
                for suffix, data in (("png", encode_rgb(pixels, "png") + noise), ("json", b"{}"), ("txt", b"caption")):
                    info = tarfile.TarInfo(f"{number:05d}{sample:04d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def publish_counts(folder: Path, kind: str, url: str, shards: int, samples: int) -> dict[str, Any]:
    """Write the counts of one kind next to the tars; return the options that use them."""
    for file in [*folder.glob("*.json")]:
        file.unlink()
    names = [f"{number:05d}.tar" for number in range(shards)]
    pattern = f"{url}/{{00000..{shards - 1:05d}}}.tar"
    if kind.startswith("sr index"):
        make_index(pattern, folder / "index.json", show=False)
    elif kind == "timm _info.json":
        splits = {"train": {"filenames": names, "shard_lengths": [samples] * shards}}
        (folder / "_info.json").write_text(json.dumps({"splits": splits}))
    elif kind == "wids JSON":
        (folder / "wids.json").write_text(
            json.dumps({"shardlist": [{"url": name, "nsamples": samples} for name in names]})
        )
    elif kind == "img2dataset stats":
        for name in names:
            (folder / name.replace(".tar", "_stats.json")).write_text(json.dumps({"successes": samples}))
    return {"path": pattern, "read": "blocks" if "blocks" in kind else "whole"}


def stream(source: ShardSource, consumed: int, steps: int, batch: int, world: int = 1) -> list[np.ndarray]:
    """The first pixels of `steps` batches, read by `world` ranks."""
    loaders = [
        Loader(source, batch_size=batch, rank=rank, world=world, **CROP).batches(consumed) for rank in range(world)
    ]
    rows = []
    for _ in range(steps):
        raws = [next(islice(loader, 1)) for loader in loaders]
        values = {p: g.gt[i, :2, 0, 0] for raw in raws for g in raw.groups for i, p in enumerate(g.positions)}
        rows.append(np.array([values[position] for position in sorted(values)]))
    source.expect([])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--samples", type=int, default=20, help="per shard (%(default)s)")
    parser.add_argument("--kilobytes", type=int, default=75, help="per image (%(default)s)")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--block-mb", type=float, default=64, help="size of a block (%(default)s)")
    args = parser.parse_args()
    from sr.data import scan

    scan.BLOCK = int(args.block_mb * 1e6)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "set")
        folder.mkdir()
        publish(folder, args.shards, args.samples, args.kilobytes)
        total = sum(file.stat().st_size for file in folder.glob("*.tar"))
        server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Counting(*a, directory=str(folder)))
        server.sent, server.requests = Counter(), Counter()  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"{args.shards} tars, {args.shards * args.samples} samples, {total / 1e6:.1f} MB\n")
        print(
            "| counts | MB for the index | MB before step 1 | of these images | requests |"
            f" MB after {args.steps} steps | resume on 2 ranks, empty cache |"
        )
        print("|---|---|---|---|---|---|---|")
        for kind in ("none", "img2dataset stats", "timm _info.json", "wids JSON", "sr index", "sr index, blocks"):
            print(_row(kind, folder, server, args), flush=True)
        server.shutdown()


def _row(kind: str, folder: Path, server: Any, args: argparse.Namespace) -> str:
    url = f"http://127.0.0.1:{server.server_port}"
    server.sent.clear()
    options = publish_counts(folder, kind, url, args.shards, args.samples)
    for_index = server.sent.total()
    server.sent.clear()
    server.requests.clear()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        source = ShardSource(cache=cache, **options)
        first = stream(source, 0, 1, args.batch)
        before = (server.sent.total(), server.sent[".tar"], server.requests.total())
        rest = stream(source, args.batch, args.steps - 1, args.batch)
        after = server.sent.total()
    half = args.steps // 2
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        again = stream(ShardSource(cache=cache, **options), half * args.batch, args.steps - half, args.batch, world=2)
    exact = all(np.array_equal(a, b) for a, b in zip((first + rest)[half:], again, strict=True))
    cells = [for_index / 1e6, before[0] / 1e6, before[1] / 1e6]
    words = " | ".join(f"{cell:.2f}" for cell in cells)
    return f"| {kind} | {words} | {before[2]} | {after / 1e6:.1f} | {'exact' if exact else 'DIFFERS'} |"


if __name__ == "__main__":
    main()
