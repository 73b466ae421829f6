"""Predict images per second on K machines of G GPUs, and the first bottleneck.

    python tools/benchmarks/scaling.py --step 0.25 --images 12 --parameters 21.1 --nodes 1 4 16 125
    python tools/benchmarks/scaling.py --measure options/realesrgan_x4.yml --nodes 1 2 4
    python tools/benchmarks/scaling.py --check

--measure takes step, loader and disk from this machine. --check compares prediction and measurement of 1 and 2 CPU
processes.

For one optimizer step of n = K * G processes, in seconds:

* compute = fixed + (step - fixed) * images / images measured; `step` is measured without communication.
* A pass moves P = 4 bytes * parameters around a ring: (G-1)/G * P / intra inside a machine, by all its GPUs at once,
  and (K-1)/K * P / inter between machines, through one link each, plus latency * ceil(log2) of either per 25 MB. The
  all-reduce of DDP is two passes (Patarasu and Yuan 2009) and overlaps with `overlap` * compute. ZeRO-1 and 2 reduce
  gradients in one pass (ZeRO-2: per micro-batch of `accumulate`) and gather weights in another one, without overlap in
  our configuration. ZeRO-3 gathers twice and reduces once per micro-batch, overlapped with compute (Rajbhandari et al.
  2020). FSDP2 in one group gathers before the first layer and reduces after the last one.
* A checkpoint has 12 bytes per parameter and 4 per EMA parameter. Every `save_every` steps all ranks wait until rank 0
  has copied it (10 GB/s), and for the disk only if the previous checkpoint is unfinished. Sharded backends first gather
  it in one pass.
* Control messages: a vote per step, a ring of 2 (n-1) hops over TCP that overlaps with the step, and three gathers of
  n-1 hops every `log_every` steps that do not overlap.
* The loader produces loader * cores * K images per second, ahead of the step. The shared storage delivers
  storage / sample bytes; remote shards need K times the bytes, because every machine fetches them, in each epoch if its
  cache does not hold the dataset. The slowest of loader, storage and processes limits the rate.

Not included: validation, stragglers, and links shared with other jobs.
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

FOUND = "images", "parameters", "loader", "checkpoint", "disk"  # given as flags or measured
BUCKET, COPY = 25e6, 10e9  # bytes of a DDP bucket; bytes/s of a copy in memory
# (passes that overlap with compute, passes that do not) for `a` micro-batches
PASSES = {
    "ddp": lambda a: (2, 0),
    "zero1": lambda a: (0, 2),
    "zero2": lambda a: (0, a + 1),
    "zero3": lambda a: (3 * a, 0),
    "fsdp2": lambda a: (0, a + 1),
}


@dataclass(frozen=True)
class Work:
    """One step of one process. images: as measured. batch: global batch size; None: `images` per process."""

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
    """Bytes/s: intra per GPU, inter per machine, storage of all, disk of rank 0. Seconds: latency, hop."""

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
    """costs: additional seconds of a step compared with one process, by cause."""

    step: float
    images_per_second: float
    costs: dict[str, float]

    @property
    def efficiency(self) -> float:
        return 1 - sum(self.costs.values()) / self.step

    @property
    def bottleneck(self) -> str:
        """The largest cost, or `compute` if all costs are below 5 % of the step."""
        return "compute" if self.efficiency > 0.95 else max(self.costs, key=lambda name: self.costs[name])


def passes(cluster: Cluster, size: float, times: float) -> tuple[float, float]:
    """Return the seconds (inside machines, between machines) of `times` passes of `size` bytes."""

    def one(ring: int, bandwidth: float) -> float:
        hops = math.ceil(math.log2(ring)) * math.ceil(size / BUCKET)
        return times * ((ring - 1) / ring * size / bandwidth + hops * cluster.latency)

    return one(cluster.gpus, cluster.intra), one(cluster.nodes, cluster.inter)


def exchange(work: Work, cluster: Cluster, backend: str, compute: float) -> dict[str, float]:
    """Return the seconds of communication that do not overlap with compute, by link."""
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

    def exposed(seconds: float) -> float:
        """The part of concurrent work that is longer than all costs so far."""
        return max(0.0, seconds - ideal - sum(costs.values()))

    ring = (world - 1) * cluster.hop
    costs["control messages"] = exposed(2 * ring) + 3 * ring / work.log_every
    gather = 0.0 if backend == "ddp" else sum(passes(cluster, work.checkpoint, 1))
    costs["checkpoints"] = (gather + work.checkpoint / COPY) / every
    costs["checkpoints"] += exposed(work.checkpoint / cluster.disk / every)
    loader = images * world / (work.loader * cluster.cores * cluster.nodes)
    storage = images * world * work.sample_bytes / cluster.storage * (cluster.nodes if work.remote else 1)
    costs["loader" if loader >= storage else "shared storage"] = exposed(max(loader, storage))
    step = ideal + sum(costs.values())
    return Prediction(step, images * world / step, costs)


def first_limit(work: Work, cluster: Cluster, backend: str) -> tuple[str, int] | None:
    """Return the first bottleneck other than compute when doubling machines up to 4096, and their number."""
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
            found = predict(work, wide, backend)
            figures = f"{found.images_per_second:11.1f}{found.step * 1e3:9.1f}{found.efficiency:9.0%} "
            print(f"{backend:9s}{number:9d}{wide.world:7d}{figures}  {found.bottleneck}")
        limit = first_limit(work, cluster, backend)
        words = f"{limit[0]}, at {limit[1]} machines" if limit else "none up to 4096 machines"
        print(f"{backend:9s}first bottleneck beyond compute: {words}")


def check(steps: int) -> int:
    """Predict the step of two processes from that of one and from their link; print prediction and measurement."""
    import numpy as np
    from PIL import Image

    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("--check needs two cores")
    with tempfile.TemporaryDirectory() as made:
        noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(Path(made) / "noise.png")
        one, two = processes(1, Path(made), steps), processes(2, Path(made), steps)
    # A process pinned to one core cannot communicate while it computes: no overlap.
    work = Work(step=one["step"], images=one["images"], parameters=one["parameters"], overlap=0.0)
    pair = Cluster(gpus=2, intra=two["intra"], latency=two["latency"])
    predicted = predict(work, pair, "ddp")
    print(f"link of the two     {two['intra'] / 1e9:.2f} GB/s, {two['latency'] * 1e6:.0f} us per hop")
    print(f"one process         {one['step'] * 1e3:8.1f} ms   {one['images'] / one['step']:8.2f} images/s")
    print(f"two, predicted      {predicted.step * 1e3:8.1f} ms   {predicted.images_per_second:8.2f} images/s")
    rate = 2 * two["images"] / two["step"]
    print(f"two, measured       {two['step'] * 1e3:8.1f} ms   {rate:8.2f} images/s")
    print(f"measured / predicted {two['step'] / predicted.step:.3f}")
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = made.add_mutually_exclusive_group(required=True)
    mode.add_argument("--step", type=float, help="seconds per step of one process")
    mode.add_argument("--measure", metavar="OPTIONS", help="measure on this machine what is not given")
    mode.add_argument("--check", action="store_true", help="compare prediction and measurement on this machine")
    add = made.add_argument
    add("--steps", type=int, default=10, help="steps to measure (%(default)s)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="with --measure")
    add("--images", type=float, help="images per step")
    add("--parameters", type=float, help="trained parameters of all players, in millions")
    add("--fixed", type=float, default=0.0, help="seconds per step that do not depend on the images (%(default)s)")
    add("--batch", type=float, help="global batch size (--images per process)")
    add("--accumulate", type=int, default=1)
    add("--overlap", type=float, default=0.5, help="share of compute that overlaps with communication (%(default)s)")
    add("--nodes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128])
    add("--gpus", type=int, default=8, help="GPUs per machine (%(default)s)")
    add("--intra", type=float, default=300, help="GB/s between GPUs of a machine (%(default)s)")
    add("--inter", type=float, default=25, help="GB/s between machines (%(default)s)")
    add("--latency", type=float, default=10, help="us per hop of a collective (%(default)s)")
    add("--hop", type=float, default=50, help="us per hop of a control message (%(default)s)")
    add("--loader", type=float, help="images/s per core of the loader (no limit)")
    add("--cores", type=int, default=64, help="loader cores per machine (%(default)s)")
    add("--sample-kb", type=float, default=0.0, help="kB per sample on the storage")
    add("--remote", action="store_true", help="remote shards, with caches smaller than the dataset")
    add("--storage", type=float, default=math.inf, help="GB/s of the shared storage (no limit)")
    add("--checkpoint", type=float, help="GB per checkpoint (16 bytes per parameter)")
    add("--disk", type=float, help="GB/s of the disk for checkpoints (1)")
    add("--save-every", type=int, default=5000)
    add("--log-every", type=int, default=100)
    add("--backend", choices=PASSES, nargs="+", default=list(PASSES))
    return made


def measured(args: argparse.Namespace) -> dict[str, float]:
    """Return the measurements of one process in the units of the flags."""
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
