"""tools/benchmarks/scaling.py: the limits of its equations, and that they grow and shrink with what they should."""

import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scaling import BUCKET, PASSES, Cluster, Work, first_limit, main, predict

from sr.train.builder import load
from sr.train.summary import summary
from tests.helpers.program import ROOT

pytestmark = pytest.mark.tools

WORK = Work(step=0.25, images=12, parameters=21e6)
CLUSTER = Cluster(nodes=4, gpus=8)
BOTTLENECKS = {
    "exchange inside a machine": (WORK, replace(CLUSTER, nodes=1, intra=0.3e9)),
    "exchange between machines": (WORK, replace(CLUSTER, inter=0.3e9)),
    "checkpoints": (replace(WORK, checkpoint=30e9, save_every=100), CLUSTER),
    "control messages": (replace(WORK, log_every=1), replace(CLUSTER, nodes=256)),
    "loader": (replace(WORK, loader=1), CLUSTER),
    "shared storage": (replace(WORK, sample_bytes=1e6), replace(CLUSTER, storage=1e8)),
    "small batches": (replace(WORK, batch=32, fixed=0.2), CLUSTER),
    "compute": (WORK, CLUSTER),
}
# What may only cost time as it grows, and what may only save some.
COSTLY = ["nodes", "gpus", "latency", "hop", "parameters", "checkpoint", "sample_bytes", "accumulate", "step"]
SAVING = ["intra", "inter", "disk", "storage", "cores", "loader", "overlap", "save_every", "log_every"]


def drawn(seed: int) -> tuple[Work, Cluster]:
    """Anything from a laptop to a large cluster."""
    random = np.random.default_rng(seed)

    def between(low: float, high: float) -> float:
        return float(np.exp(random.uniform(math.log(low), math.log(high))))

    work = Work(
        step=between(1e-3, 10),
        images=int(random.integers(1, 64)),
        parameters=between(1e5, 1e9),
        accumulate=int(random.integers(1, 5)),
        overlap=float(random.uniform(0, 0.9)),
        loader=between(1, 1e3),
        sample_bytes=between(1e3, 1e6),
        checkpoint=between(1e6, 1e11),
        save_every=int(between(10, 1e4)),
    )
    return work, Cluster(
        nodes=int(between(1, 500)),
        gpus=int(random.integers(1, 9)),
        intra=between(1e8, 1e12),
        inter=between(1e7, 1e11),
        latency=between(1e-6, 1e-3),
        storage=between(1e7, 1e12),
        disk=between(1e7, 1e10),
    )


@pytest.mark.parametrize("backend", PASSES)
def test_one_process_is_as_measured(backend: str) -> None:
    told = predict(WORK, Cluster(), backend)
    assert (told.step, told.images_per_second) == (0.25, 48)
    assert not any(told.costs.values())
    assert told.bottleneck == "compute"


@pytest.mark.parametrize("backend", PASSES)
@pytest.mark.parametrize("key", [*COSTLY, *SAVING])
def test_a_step_grows_and_shrinks_with_what_it_should(key: str, backend: str) -> None:
    for seed in range(40):
        work, cluster = drawn(seed)
        before = predict(work, cluster, backend)
        assert 0 < before.efficiency <= 1
        holder = work if hasattr(work, key) else cluster
        value = min(1.0, getattr(holder, key) * 2) if key == "overlap" else getattr(holder, key) * 2
        changed = replace(holder, **{key: value})
        after = predict(*((changed, cluster) if holder is work else (work, changed)), backend)
        slower, faster = (after, before) if key in COSTLY else (before, after)
        assert slower.step >= faster.step * (1 - 1e-9), f"seed {seed}"


def test_an_all_reduce_between_two_machines_by_hand() -> None:
    work = replace(WORK, parameters=BUCKET / 4, overlap=0.0)
    told = predict(work, Cluster(nodes=2, gpus=1, inter=25e9, latency=10e-6), "ddp")
    assert told.costs["exchange between machines"] == pytest.approx(2 * (25e6 / 2 / 25e9 + 10e-6))
    assert told.costs["exchange inside a machine"] == 0


def test_the_exchange_has_a_limit_however_many_machines() -> None:
    work, wide = replace(WORK, overlap=0.0), Cluster(nodes=4096, gpus=1, latency=0.0)
    cost = predict(work, wide, "ddp").costs["exchange between machines"]
    assert cost == pytest.approx(2 * 4 * WORK.parameters / wide.inter, rel=1e-3)


def test_sharding_never_exchanges_less_and_accumulation_asks_more_of_zero_2_and_3() -> None:
    slow = replace(CLUSTER, inter=1e9)

    def cost(backend: str, accumulate: int) -> float:
        return predict(replace(WORK, overlap=0.0, accumulate=accumulate), slow, backend).step

    assert cost("ddp", 1) == cost("zero1", 1) == cost("zero2", 1) == cost("fsdp2", 1)
    assert cost("zero3", 1) > cost("ddp", 1)
    assert cost("ddp", 4) == cost("ddp", 1)
    assert cost("zero1", 4) == cost("zero1", 1)
    assert cost("zero2", 4) > cost("zero2", 1)
    assert cost("zero3", 4) > cost("zero2", 4)
    assert predict(WORK, slow, "ddp").step < predict(WORK, slow, "zero1").step, "behind the compute"


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_the_bottleneck_is_what_was_made_slow(name: str) -> None:
    assert predict(*BOTTLENECKS[name], "ddp").bottleneck == name


def test_the_slower_of_loader_and_storage_sets_the_pace() -> None:
    cluster = replace(CLUSTER, cores=16, storage=1e8)
    read = predict(replace(WORK, loader=2, sample_bytes=1e3), cluster, "ddp")
    assert read.images_per_second == pytest.approx(2 * 16 * 4)
    far = replace(WORK, loader=200, sample_bytes=1e6)
    assert predict(far, cluster, "ddp").images_per_second == pytest.approx(100)
    assert predict(replace(far, remote=True), cluster, "ddp").images_per_second == pytest.approx(25)


def test_saving_costs_the_copy_and_what_the_disk_cannot_keep_up_with() -> None:
    work = replace(WORK, checkpoint=1e9, save_every=100)
    assert predict(work, CLUSTER, "ddp").costs["checkpoints"] == pytest.approx(0.1 / 100)
    slow = predict(work, replace(CLUSTER, disk=0.01e9), "ddp")
    assert slow.step * 100 == pytest.approx(100, rel=0.01), "a checkpoint of 100 s every 100 steps"


@pytest.mark.parametrize("backend", PASSES)
def test_the_first_limit_is_the_first(backend: str) -> None:
    slow = replace(CLUSTER, inter=2e9)
    found = first_limit(WORK, slow, backend)
    assert found is not None
    name, nodes = found
    assert predict(WORK, replace(slow, nodes=nodes), backend).bottleneck == name
    assert nodes == 1 or predict(WORK, replace(slow, nodes=nodes // 2), backend).bottleneck == "compute"


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--step", "0.25", "--images", "12", "--parameters", "21", "--gpus", "8", "--nodes", "1", "16"]
    assert main([*flags, "--batch", "96", "--backend", "ddp", "zero2"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:3] for row in rows[1:3]] == [["ddp", "1", "8"], ["ddp", "16", "128"]]
    assert float(rows[1][3]) == pytest.approx(8 * 48, rel=0.01)
    assert " ".join(rows[2][3:]) == "fewer images in a batch than processes"
    assert " ".join(rows[3]) == "ddp first bottleneck beyond compute: small batches, at 16 machines"
    with pytest.raises(SystemExit, match="--images and --parameters"):
        main(["--step", "0.25"])


def test_measured_here(
    recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    file = recipe()
    assert main(["--measure", str(file), "--steps", "1", "--gpus", "1", "--nodes", "1", "--backend", "ddp"]) == 0
    said = capsys.readouterr().out
    found = said.splitlines()[0].split()
    values = {key: float(value) for key, value in zip(found[1::2], found[2::2], strict=True)}
    trained = sum(map(float, re.findall(r"([\d.]+) M parameters", str(summary(load(file))))))
    assert values["--parameters"] == pytest.approx(trained, abs=2e-3)
    assert values["--images"] == 4
    rate = float(said.splitlines()[2].split()[3])
    assert rate == pytest.approx(4 / values["--step"], rel=0.2)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_two_processes_are_measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert main(["--check", "--steps", "1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    predicted, measured = (float(row[2]) for row in rows[2:4])
    assert float(rows[4][-1]) == pytest.approx(measured / predicted, rel=1e-2)
