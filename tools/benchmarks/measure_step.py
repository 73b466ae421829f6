"""Measure the inputs of tools/benchmarks/scaling.py: a step of one process, the loader, the disk, and the link.

    python tools/benchmarks/measure_step.py options/realesrgan_x4.yml --steps 10 --set data.batch_size=12

Prints JSON: seconds per step, images per step, parameters, bytes of a checkpoint, images per second that one core
loads, bytes per second written to the disk of the run, and, under a launcher, the bandwidth between the processes. The
step includes degradation, losses, both players, gradient exchange and update, but no loading and saving.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

MEASURE = Path(__file__)


def measure(options: Any, steps: int) -> dict[str, float]:
    """Return the step of this process and, on rank 0, the rates of loader and disk. Collective."""
    import torch

    from sr.distributed import comm
    from sr.train.builder import Builder

    engine = Builder(options).trainer()
    count = engine.options.train.accumulate * (steps + 2)
    with closing(engine.batches(0)) as batches:
        raws = [next(batches) for _ in range(count)]
    times, feed = [], iter(raws)
    for _ in range(steps + 2):  # the first two warm up
        began = time.perf_counter()
        engine.train_step(feed)
        wait(engine.device)
        times.append(time.perf_counter() - began)
    nets = {name: parameters(player.raw) for name, player in engine.players.items()}
    images = options.data.batch_size / comm.world()
    found = {"step": statistics.median(times[2:]), "images": images, "parameters": sum(nets.values())}
    found["checkpoint"] = 12 * found["parameters"] + 4 * nets["generator"]
    alone = Builder(options.model_copy(update={"data": options.data.model_copy(update={"workers": 0})}))
    source = alone.source()  # collective
    if comm.is_main():
        found |= {"loader": loader_rate(alone.stream(source)), "disk": disk_rate(options.folder, found["checkpoint"])}
    if comm.world() > 1:
        found |= link_rate(engine.device)
        comm.shutdown()
        torch.distributed.destroy_process_group()
    return found


def parameters(net: Any) -> int:
    """Return the number of parameters, unsharded (ZeRO-3 keeps a shard of each here)."""
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in net.parameters())


def loader_rate(stream: Any) -> float:
    """Return the images per second that one core reads, decodes and crops."""
    with closing(stream.batches(0)) as batches:
        next(batches)  # the first batch opens files
        began, images = time.perf_counter(), 0
        while time.perf_counter() - began < 1.0:
            images += sum(len(group.rows) for group in next(batches).groups)
    return images / (time.perf_counter() - began)


def disk_rate(folder: Path, size: float) -> float:
    """Return the bytes per second of a synced write to the folder of the run, of 256 MB at most."""
    folder.mkdir(parents=True, exist_ok=True)
    content = os.urandom(int(min(size, 256e6)))
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return len(content) / (time.perf_counter() - began)


def wait(device: Any) -> None:
    """Wait for queued device work."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def link_rate(device: Any) -> dict[str, float]:
    """Return bytes/s and seconds per hop between the processes, from all-reduces of 32 MB and of one number."""
    import torch
    import torch.distributed as td

    def seconds(numbers: int) -> float:
        tensor, times = torch.ones(numbers, device=device), []
        for _ in range(12):
            began = time.perf_counter()
            td.all_reduce(tensor)
            wait(device)
            times.append(time.perf_counter() - began)
        return statistics.median(times[2:])

    world, size = td.get_world_size(), 32e6
    small, large = seconds(1), seconds(int(size / 4))
    return {"intra": 2 * (world - 1) / world * size / (large - small), "latency": small / 2}


SMALL = """\
{{name: check, task: psnr, scale: 4, out: "{out}", generator: {{type: rrdbnet, num_feat: 64, num_block: 4}},
losses: {{pixel: {{type: l1}}}}, degrade: [{{type: downscale}}], optimizer: {{generator: {{type: adam, lr: 1e-4}}}},
data: {{source: {{type: folder, gt: "{out}"}}, gt_size: 64, batch_size: {batch}, workers: 0}},
train: {{total_steps: 100, precision: fp32}}}}
"""


def processes(world: int, folder: Path, steps: int) -> dict[str, float]:
    """Return the measurements of rank 0 of `world` processes, each pinned to a core, on a small network."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    file = folder / f"{world}.yml"
    file.write_text(SMALL.format(out=folder, batch=2 * world))
    cores = sorted(os.sched_getaffinity(0))
    started = []
    for rank in range(world):
        place: dict[str, Any] = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "CUDA_VISIBLE_DEVICES": "-1"}
        env = {**os.environ, **{key: str(value) for key, value in place.items()}} if world > 1 else dict(os.environ)
        line = [sys.executable, str(MEASURE), str(file), "--steps", str(steps), "--core", str(cores[rank])]
        started.append(subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=600)[0] for process in started]
    if any(process.returncode for process in started):
        sys.exit("a process of the check failed; see its message above")
    found: dict[str, float] = json.loads(outputs[0].splitlines()[-1])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options")
    parser.add_argument("--steps", type=int, default=5, help="timed steps after two warm-up steps (%(default)s)")
    parser.add_argument("--core", type=int, help="pin the process to this core")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(argv)
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})  # before torch counts cores
    from sr.core.errors import UserError
    from sr.train.builder import load

    try:
        print(json.dumps(measure(load(args.options, args.set), args.steps)))
    except UserError as error:
        sys.exit(f"measure_step: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
