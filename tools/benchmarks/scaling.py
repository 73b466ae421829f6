"""Predict images per second on K machines of G GPUs, and what will hold them back first.

    python tools/benchmarks/scaling.py --step 0.25 --images 12 --parameters 21.1 --nodes 1 4 16 125
    python tools/benchmarks/scaling.py --measure options/realesrgan_x4.yml --nodes 1 2 4

    # step, loader and disk from here
    python tools/benchmarks/scaling.py --check                    # processes on a core each, 1 and 2: predicted
    beside measured

For one optimizer step of n = K * G processes, in seconds:

* compute = fixed + (step - fixed) * images / images measured; `step` is that of one process that exchanges nothing.
* A pass carries P = 4 bytes * parameters once around: (G-1)/G * P / intra inside a machine, by all its GPUs at once,
  and (K-1)/K * P / inter between machines, through the one link of each; and latency * ceil(log2) of either for every
  25 MB. DDP's all-reduce is two passes (Patarasu and Yuan 2009), and what hides behind `overlap` * compute costs
  nothing. ZeRO-1 and 2 reduce gradients in one pass (2: in each of `accumulate` micro-batches) and gather weights in
  another, and hide neither as sr sets them up. ZeRO-3 gathers twice and reduces once in each micro-batch, behind the
  compute (Rajbhandari et al. 2020). FSDP2 in one group gathers before the first layer, reduces after the last.
* A checkpoint holds 12 bytes for every parameter and 4 for the average. Every `save_every` steps all wait until rank 0
  has copied it (10 GB/s); its disk is waited for only where the next is due before it is done. Sharded backends gather
  it first, in one pass.
* Control: a vote in every step, a ring of 2 (n-1) hops over TCP that hides behind the step, and three gatherings of
  n-1 hops every `log_every` steps that do not.
* The loader makes loader * cores * K images per second, ahead of the step, and the shared storage passes
  storage / sample bytes (remote shards: K times the bytes, because every machine fetches them whole, in each epoch if
  its cache does not hold the data set): the slower of those and of the processes sets the pace.

Not in it: validation, stragglers, and links shared with other jobs.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from measure_step import MEASURE, processes

FOUND = "images", "parameters", "loader", "checkpoint", "disk"  # what can be given or measured
BUCKET, COPY = 25e6, 10e9  # bytes of one message of DDP; bytes/s of a copy in memory
# (passes that can hide behind compute, passes that cannot) for `a` micro-batches.
PASSES = {
    "ddp": lambda a: (2, 0),
    "zero1": lambda a: (0, 2),
    "zero2": lambda a: (0, a + 1),
    "zero3": lambda a: (3 * a, 0),
    "fsdp2": lambda a: (0, a + 1),
}


@dataclass(frozen=True)
class Work:
    """One step of one process. `images` as measured; `batch` is the global one, None for `images` on every process."""

    step: float
    images: float
    parameters: float
    fixed: float = 0.0
    batch: float | None = None
    accumulate: int = 1
    overlap: float = 0.5
    loader: float = math.inf
    sample_bytes: float = 0.0
    remote: bool = False
    checkpoint: float = 0.0
    save_every: int = 5000
    log_every: int = 100


@dataclass(frozen=True)
class Cluster:
    """Bandwidths in bytes/s: intra of one GPU, inter of one machine, storage of all, disk of rank 0. Seconds a hop."""

    nodes: int = 1
    gpus: int = 1
    intra: float = 300e9
    inter: float = 25e9
    latency: float = 10e-6
    cores: int = 64
    storage: float = math.inf
    disk: float = 1e9
    hop: float = 50e-6

    @property
    def world(self) -> int:
        return self.nodes * self.gpus


@dataclass(frozen=True)
class Prediction:
    """`costs`: the seconds of a step that one process alone would not need, by what asks for them."""

    step: float
    images_per_second: float
    costs: dict[str, float]

    @property
    def efficiency(self) -> float:
        return 1 - sum(self.costs.values()) / self.step

    @property
    def bottleneck(self) -> str:
        """What costs most, once all costs together reach a twentieth of the step."""
        return "compute" if self.efficiency > 0.95 else max(self.costs, key=lambda name: self.costs[name])


def passes(cluster: Cluster, size: float, times: float) -> tuple[float, float]:
    """Seconds (inside machines, between machines) of `times` passes of `size` bytes."""

    def one(ring: int, bandwidth: float) -> float:
        hops = math.ceil(math.log2(ring)) * math.ceil(size / BUCKET)
        return times * ((ring - 1) / ring * size / bandwidth + hops * cluster.latency)

    return one(cluster.gpus, cluster.intra), one(cluster.nodes, cluster.inter)


def exchange(work: Work, cluster: Cluster, backend: str, compute: float) -> dict[str, float]:
    """The part of the exchange that nothing hides, by link."""
    hidden, shown = (passes(cluster, 4 * work.parameters, times) for times in PASSES[backend](work.accumulate))
    left = max(0.0, 1 - work.overlap * compute / sum(hidden)) if sum(hidden) else 0.0
    inside, between = (wait + left * time for wait, time in zip(shown, hidden, strict=True))
    return {"exchange inside a machine": inside, "exchange between machines": between}


def predict(work: Work, cluster: Cluster, backend: str) -> Prediction:
    world, every = cluster.world, work.save_every
    images = work.images if work.batch is None else work.batch / world
    ideal = work.step * images / work.images
    compute = work.fixed + (work.step - work.fixed) * images / work.images
    costs = {"small batches": compute - ideal} | exchange(work, cluster, backend, compute)

    def beside(seconds: float) -> float:
        """What goes on beside all that costs time so far is waited for by so much."""
        return max(0.0, seconds - ideal - sum(costs.values()))

    ring = (world - 1) * cluster.hop
    costs["control messages"] = beside(2 * ring) + 3 * ring / work.log_every
    gather = 0.0 if backend == "ddp" else sum(passes(cluster, work.checkpoint, 1))
    costs["checkpoints"] = (gather + work.checkpoint / COPY) / every
    costs["checkpoints"] += beside(work.checkpoint / cluster.disk / every)
    loader = images * world / (work.loader * cluster.cores * cluster.nodes)
    storage = images * world * work.sample_bytes / cluster.storage * (cluster.nodes if work.remote else 1)
    costs["loader" if loader >= storage else "shared storage"] = beside(max(loader, storage))
    step = ideal + sum(costs.values())
    return Prediction(step, images * world / step, costs)


def first_limit(work: Work, cluster: Cluster, backend: str) -> tuple[str, int] | None:
    """The first bottleneck that is not compute as machines are doubled up to 4096, and their number then."""
    for nodes in (2**power for power in range(13)):
        wider = replace(cluster, nodes=nodes)
        if work.batch is not None and work.batch < wider.world * work.accumulate:
            return "small batches", nodes
        found = predict(work, wider, backend).bottleneck
        if found != "compute":
            return found, nodes
    return None


def table(work: Work, cluster: Cluster, nodes: list[int], backends: list[str]) -> None:
    print(f"{'backend':9s}{'machines':>9s}{'GPUs':>7s}{'images/s':>11s}{'step ms':>9s}{'efficient':>10s}  bottleneck")
    for backend in backends:
        for number in nodes:
            wide = replace(cluster, nodes=number)
            if work.batch is not None and work.batch < wide.world * work.accumulate:
                print(f"{backend:9s}{number:9d}{wide.world:7d}  fewer images in a batch than processes")
                continue
            told = predict(work, wide, backend)
            figures = f"{told.images_per_second:11.1f}{told.step * 1e3:9.1f}{told.efficiency:9.0%} "
            print(f"{backend:9s}{number:9d}{wide.world:7d}{figures}  {told.bottleneck}")
        limit = first_limit(work, cluster, backend)
        told_limit = f"{limit[0]}, at {limit[1]} machines" if limit else "none up to 4096 machines"
        print(f"{backend:9s}first beyond compute: {told_limit}")


def check(steps: int) -> int:
    """Predict the step of two processes from that of one and from their link; print it beside the measured one."""
    import numpy as np
    from PIL import Image

    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("--check needs two cores")
    with tempfile.TemporaryDirectory() as made:
        noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(Path(made) / "noise.png")
        one, two = processes(1, Path(made), steps), processes(2, Path(made), steps)
    # On a core of its own a process has nobody to send while it computes: nothing hides.
    work = Work(step=one["step"], images=one["images"], parameters=one["parameters"], overlap=0.0)
    pair = Cluster(gpus=2, intra=two["intra"], latency=two["latency"])
    told = predict(work, pair, "ddp")
    print(f"link of the two     {two['intra'] / 1e9:.2f} GB/s, {two['latency'] * 1e6:.0f} us a hop")
    print(f"one process         {one['step'] * 1e3:8.1f} ms   {one['images'] / one['step']:8.2f} images/s")
    print(f"two, predicted      {told.step * 1e3:8.1f} ms   {told.images_per_second:8.2f} images/s")
    rate = 2 * two["images"] / two["step"]
    print(f"two, measured       {two['step'] * 1e3:8.1f} ms   {rate:8.2f} images/s")
    print(f"measured / predicted {two['step'] / told.step:.3f}")
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = made.add_mutually_exclusive_group(required=True)
    mode.add_argument("--step", type=float, help="seconds of a step of one process")
    mode.add_argument("--measure", metavar="OPTIONS", help="take what is not given below from a few steps here")
    mode.add_argument("--check", action="store_true", help="two processes on this machine, predicted and measured")
    add = made.add_argument
    add("--steps", type=int, default=10, help="to measure (%(default)s)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="with --measure")
    add("--images", type=float, help="in that step")
    add("--parameters", type=float, help="trained, of all players, in millions")
    add("--fixed", type=float, default=0.0, help="seconds of it that fewer images do not shorten (%(default)s)")
    add("--batch", type=float, help="the global batch, kept for all sizes (each process keeps its --images)")
    add("--accumulate", type=int, default=1)
    add("--overlap", type=float, default=0.5, help="share of the compute behind which an exchange hides (%(default)s)")
    add("--nodes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128])
    add("--gpus", type=int, default=8, help="of a machine (%(default)s)")
    add("--intra", type=float, default=300, help="GB/s of a GPU to its neighbour (%(default)s)")
    add("--inter", type=float, default=25, help="GB/s of a machine to the others (%(default)s)")
    add("--latency", type=float, default=10, help="us of a hop of the exchange (%(default)s)")
    add("--hop", type=float, default=50, help="us of a hop of a control message (%(default)s)")
    add("--loader", type=float, help="images/s that a core loads (no limit)")
    add("--cores", type=int, default=64, help="of a machine that load (%(default)s)")
    add("--sample-kb", type=float, default=0.0, help="of one sample on the storage")
    add("--remote", action="store_true", help="shards are fetched, by caches that do not hold the data set")
    add("--storage", type=float, default=math.inf, help="GB/s of the shared storage for all machines (no limit)")
    add("--checkpoint", type=float, help="GB (16 bytes for every parameter)")
    add("--disk", type=float, help="GB/s of the disk that checkpoints go to (1)")
    add("--save-every", type=int, default=5000)
    add("--log-every", type=int, default=100)
    add("--backend", choices=PASSES, nargs="+", default=list(PASSES))
    return made


def measured(args: argparse.Namespace) -> dict[str, float]:
    """What one process finds here, in the units of the flags; a flag that is given counts instead."""
    if args.measure is None:
        if args.images is None or args.parameters is None:
            sys.exit("--step needs --images and --parameters")
        return {"step": args.step}
    sets = [f"--set={given}" for given in args.set]
    line = [sys.executable, str(MEASURE), args.measure, "--steps", str(args.steps), *sets]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    found |= {"parameters": found["parameters"] / 1e6}
    found |= {key: found[key] / 1e9 for key in ("checkpoint", "disk")}
    print("measured  " + "  ".join(f"--{key} {value:.4g}" for key, value in found.items()))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.check:
        return check(args.steps)
    found = measured(args)
    found |= {key: value for key, value in vars(args).items() if key in FOUND and value is not None}
    parameters = found["parameters"] * 1e6
    work = Work(
        step=found["step"],
        images=found["images"],
        parameters=parameters,
        fixed=args.fixed,
        batch=args.batch,
        accumulate=args.accumulate,
        overlap=args.overlap,
        loader=found.get("loader", math.inf),
        sample_bytes=args.sample_kb * 1e3,
        remote=args.remote,
        checkpoint=found["checkpoint"] * 1e9 if "checkpoint" in found else 16 * parameters,
        save_every=args.save_every,
        log_every=args.log_every,
    )
    cluster = Cluster(
        gpus=args.gpus,
        intra=args.intra * 1e9,
        inter=args.inter * 1e9,
        latency=args.latency * 1e-6,
        cores=args.cores,
        storage=args.storage * 1e9,
        disk=found.get("disk", 1.0) * 1e9,
        hop=args.hop * 1e-6,
    )
    table(work, cluster, args.nodes, args.backend)
    return 0


if __name__ == "__main__":
    sys.exit(main())
