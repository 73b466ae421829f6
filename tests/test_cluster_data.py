"""Two simulated hosts train from a third one over HTTP, through cut connections, with exact resume."""

import argparse
import io
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import cluster
import numpy as np
import pytest
import yaml
from cluster_run import Run, kill_node
from cluster_test import differs, prepare

from sr.data.make_index import make_index
from sr.images import encode_rgb
from tests.helpers.program import ROOT

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's"), pytest.mark.cluster]
SERVER = 2  # the host that serves the shards
SHARDS, STEPS = 10, 30  # a step takes one shard, so the set is read three times
SERVE = """
import sys
from collections import Counter
from http.server import ThreadingHTTPServer
import foreign_sets
server = ThreadingHTTPServer(("", 8000), lambda *a: foreign_sets.Counting(*a, directory=sys.argv[1]))
server.sent, server.requests = Counter(), Counter()
server.serve_forever()
"""


class OverHttp(Run):
    """A training on the first two hosts."""

    def __init__(self, hosts: cluster.Cluster, out: Path, name: str) -> None:
        args = argparse.Namespace(out=out, timeout=150, restarts=0, processes=1)
        super().__init__(args, hosts, name, steps=STEPS, alone=False)
        self.nodes = range(SERVER)
        self.launches = dict.fromkeys(self.nodes, 0)


@pytest.fixture
def hosts() -> Iterator[cluster.Cluster]:
    if reason := cluster.forbidden():
        pytest.skip(reason)
    with cluster.Cluster(3) as made:
        yield made


def publish(folder: Path, out: Path) -> None:
    """Write the shards with an index, and options with a cache on each host that holds two shards only."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for sample in range(8):
                data = encode_rgb(draw.integers(0, 256, (64, 64, 3), np.uint8), "png")
                info = tarfile.TarInfo(f"{sample}.png")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    make_index(str(folder), show=False)
    size = max(file.stat().st_size for file in folder.glob("*.tar"))
    prepare(out)
    recipe = yaml.safe_load((out / "recipe.yml").read_text())
    path, cache = f"http://node{SERVER}:8000/", str(out / "cache$CLUSTER_NODE")
    recipe["data"]["source"] = {
        "type": "shards",
        "path": path,
        "cache": cache,
        "window": 1,
        "cache_gb": 2.5 * size / 1e9,
    }
    (out / "recipe.yml").write_text(yaml.safe_dump(recipe, sort_keys=False))


def serve(hosts: cluster.Cluster, folder: Path, log: Path) -> "subprocess.Popen[bytes]":
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tools' / 'benchmarks'}"}
    return hosts.start(SERVER, [sys.executable, "-c", SERVE, str(folder)], env=env, log=log)


@pytest.mark.timeout(1200)
def test_two_hosts_train_over_http_through_cut_connections(hosts: cluster.Cluster, tmp_path: Path) -> None:
    """Five minutes on two busy cores."""
    folder, out = tmp_path / "served", tmp_path / "out"
    publish(folder, out)
    server = serve(hosts, folder, tmp_path / "server.log")
    whole = OverHttp(hosts, out, "whole")
    whole.finish()

    run = OverHttp(hosts, out, "cut")
    run.reach(7)
    hosts.link(SERVER, up=False)
    run.wait(4)
    server.kill()  # connections that hang since the cut are reset now
    hosts.link(SERVER, up=True)
    run.wait(4)
    stalled = run.step
    server = serve(hosts, folder, tmp_path / "again.log")
    run.reach(stalled + 3)
    assert all("retrying in" in run.output(node) for node in run.nodes), "both hosts met the cut"
    assert run.resumed == [], "without a restart"

    hosts.link(SERVER, up=False)
    run.wait(2)
    kill_node(run, 1, random.Random(0))  # and a host is lost while the data is away
    time.sleep(1)
    hosts.link(SERVER, up=True)
    run.finish()
    assert run.resumed, "from a checkpoint"
    assert differs(run, whole, STEPS) == 0
    for node in run.nodes:
        held = sum(file.stat().st_size for file in (out / f"cache{node}").glob("*.tar"))
        assert 0 < held <= 2.5 * max(file.stat().st_size for file in folder.glob("*.tar"))
    server.kill()
