"""The simulated run of many ranks over many shards."""

import sys

import order_at_scale
import pytest


@pytest.mark.tools
def test_every_node_requests_every_shard_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    given = "--nodes 1 4 --per-node 2 --shards 60 --samples 20 --mb 1 --windows 4 --cache-gb 0.008 --passed 3"
    monkeypatch.setattr(sys, "argv", ["order_at_scale.py", *given.split()])
    order_at_scale.main()
    one, four = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert (one[0], one[3:5], four[0], four[3:5]) == ("2 on 1", ["1", "100.0%"], "8 on 4", ["4", "100.0%"])
    assert one[6] == "100.0%"
    assert 20 < float(four[6].rstrip("%")) <= 25
    node = order_at_scale.Node(2, 1)
    for shard in (1, 2, 3, 1):
        node.read(shard)
    assert (node.waits, [*node.held]) == (4, [3, 1])
