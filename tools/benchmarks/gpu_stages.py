"""The stages of tools/gpu_acceptance.py. Each measures one thing on the GPU and appends its values to a file.

    python tools/benchmarks/gpu_stages.py profile --rows rows.jsonl [--tiny]

A stage times ten steps between two synchronizations, after a warm-up. On a null GPU (tests/null_gpu) it runs whole, but
its values say nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
NULL = "NULL_GPU_GIB" in os.environ  # kernels do not run here

import torch  # noqa: E402
from bench_harness import matmul_peak  # noqa: E402
from launches import SETS, photos  # noqa: E402

CUDA = torch.device("cuda")
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16 operations per second, by the name of the GPU
WAYS: dict[str, dict[str, Any]] = {  # options of `train`
    "eager": {"compile": False, "cuda_graph": False},
    "regional compile": {"compile": True, "cuda_graph": False},
    "graph": {"compile": False, "cuda_graph": True},
    "graph, regional compile": {"compile": True, "cuda_graph": True},
}


class Record:
    """Appends values to a file, each as a line of JSON that is on the disk at once."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(
        self,
        name: str,
        value: float | None,
        *,
        least: float | None = None,
        most: float | None = None,
        note: str = "",
        **details: Any,
    ) -> None:
        """Add a value. least, most: its goal. None as a value: `note` says why it is missing."""
        goal = least if least is not None else most
        met = None
        if goal is not None and value is not None:
            met = value >= goal if least is not None else value <= goal
        row = {"name": name, "value": value, "goal": goal, "bound": "most" if least is None else "least", "met": met}
        with self.file.open("a") as file:
            file.write(json.dumps(row | {"note": note, "details": details}, default=str) + "\n")
        print(f"{name}: {value if value is not None else note}", flush=True)


# ---- shared ----------------------------------------------------------------------------------------------------------


def seconds(run: Callable[[], object], steps: int) -> float:
    """Return the seconds of a run, of `steps` runs between two synchronizations."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps


def sizes(args: argparse.Namespace, batch: int) -> argparse.Namespace:
    """Return the sizes of a step as `bench_step` expects them."""
    gt, blocks = (64, 1) if args.tiny else (256, 23)
    feat = 16 if args.tiny and not args.other else 64  # the networks of other trainers have 64
    return argparse.Namespace(scale=4, gt=gt, blocks=blocks, feat=feat, batch=batch, device=CUDA)


def recipe(args: argparse.Namespace, folder: Path, *more: str, batch: int) -> Any:
    """Return the options of realesrgan_x4 on synthetic images."""
    from sr.train.builder import load

    sets = [*SETS, f"data.batch_size={batch}", f"out={folder}", *small(args), *more]
    if not any(each.startswith("data.source") for each in more):
        sets.append(f"data.source={{type: folder, gt: {photos(folder)}}}")
    return load("options/realesrgan_x4.yml", sets)


def small(args: argparse.Namespace) -> list[str]:
    tiny = ["data.gt_size=64", "data.degrade_size=96", "generator.num_block=1", "generator.num_feat=16"]
    return tiny if args.tiny else []


def program(*words: object, before: str = "", **how: Any) -> subprocess.Popen[str]:
    """Start `sr` with the output in pipes. before: Python to run first."""
    run = "from tests.null_gpu.__main__ import ignore_values; ignore_values()" if NULL else "pass"
    code = f"import sys, torch; {run}; {before or 'pass'}; from sr.cli import main; sys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", code, *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    return subprocess.Popen(line, **(pipes | how))


def reference(args: argparse.Namespace, batch: int) -> Any:
    """Return BasicSR's step on a batch, and the batch."""
    from bench_step import GAN_WEIGHT, RATE, batch_of
    from reference_step import Reference

    torch.manual_seed(0)
    made, given = Reference(sizes(args, batch), rate=RATE, gan_weight=GAN_WEIGHT), batch_of(sizes(args, batch))
    made.give(given)
    return made, given


def ways() -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield (name, options of `train`); None for a way that this version does not have."""
    from sr.config.options import Train

    for name, given in WAYS.items():
        missing = [key for key, value in given.items() if value and key not in Train.model_fields]
        yield name, None if missing else {key: value for key, value in given.items() if key in Train.model_fields}


def attempt(record: Record, name: str, run: Callable[[], Any]) -> Any:
    """Return the result of `run`; None, and a row with the reason, where it fails."""
    try:
        return run()
    except Exception as error:  # the other values of the stage are still wanted
        record(name, None, note=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        torch.cuda.empty_cache()
        return None


# ---- part A ----------------------------------------------------------------------------------------------------------


def syncs(args: argparse.Namespace, record: Record) -> None:
    """Run 20 steps of the whole recipe, degradation included, in which any wait for the GPU is an error."""
    from sr.train.builder import Builder

    with tempfile.TemporaryDirectory() as folder:
        trainer = Builder(recipe(args, Path(folder), batch=1 if args.tiny else 12)).trainer()
        batches = trainer.batches(0)
        raws = [next(batches) for _ in range(3 if args.tiny else 23)]
        for raw in raws[:2]:
            trainer.train_step(iter([raw]))
        torch.cuda.set_sync_debug_mode("error")
        try:
            for raw in raws[2:]:
                trainer.train_step(iter([raw]))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        finite = all(value == value for value in trainer.meter.read().values())
        record("steps without a wait for the GPU", len(raws) - 2, least=1 if args.tiny else 20)
        record("all losses finite", float(finite), least=1)


def parity(args: argparse.Namespace, record: Record) -> None:
    """Compare networks, losses, gradients and degradation stages with float64 on the CPU."""
    import gpu_parity
    from bench_degrade import photographs

    for name, output, gradients in gpu_parity.nets(CUDA, None):
        record(f"{name}: error of the output, fp32", output, most=1e-5)
        record(f"{name}: error of the gradients, fp32", gradients, most=1e-3)
    for name, output, gradients in gpu_parity.nets(CUDA, torch.bfloat16):
        record(f"{name}: error of the output, bf16", output, most=0.05)
        record(f"{name}: error of the gradients, bf16", gradients, most=0.3)
    for name, value, gradient in gpu_parity.losses(CUDA):
        record(f"{name}: error of the loss", value, most=1e-4)
        record(f"{name}: error of the gradient", gradient, most=1e-2)
    images = list(photographs(2, 64 if args.tiny else 400))
    for name, off in gpu_parity.stages(CUDA, [images[0], images[1][:, 4:, :-8]]):
        record(f"{name}: error of the stage", off, most=0.05 if name == "noise" else 0.5 / 255)


def steps(args: argparse.Namespace, record: Record) -> None:
    """Time a step with the networks and losses of Real-ESRGAN against BasicSR's, ours in several ways."""
    batch, rounds, count = (1, 1, 2) if args.tiny else (args.batch, 3, 10)
    torch.backends.cudnn.benchmark = True  # as BasicSR's train.py sets it
    with tempfile.TemporaryDirectory() as folder:
        arms = _arms(args, record, Path(folder), batch, count)
        times: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name, run in arms.items():
                times[name].append(seconds(run, count))
        found = {name: statistics.median(each) for name, each in times.items()}
        ours = {name: time for name, time in found.items() if name in WAYS}
        for base, least in (("BasicSR", 2.5), ("BasicSR, strict fp32", 5.5)):
            for name, spent in ours.items() if base in found else ():
                record(f"step, batch {batch}: {name} against {base}", found[base] / spent)
            if base in found and ours:
                record(f"step, batch {batch}: best against {base}", found[base] / min(ours.values()), least=least)


def _arms(
    args: argparse.Namespace, record: Record, folder: Path, batch: int, count: int
) -> dict[str, Callable[[], object]]:
    """Return what runs here, after a warm-up and a first row for each."""
    from bench_step import batch_of, strict

    arms: dict[str, Callable[[], object]] = {}
    theirs = attempt(record, f"step, batch {batch}: BasicSR", lambda: reference(args, batch))
    given = theirs[1] if theirs else batch_of(sizes(args, batch))
    start = theirs[0].start() if theirs else {}
    makers: dict[str, Callable[[], Callable[[], object]]] = {}
    if theirs:
        makers = {"BasicSR": lambda: theirs[0].step, "BasicSR, strict fp32": lambda: strict(theirs[0].step)}
    for name, train in ways():
        if train is None:
            record(f"step, batch {batch}: {name}", None, note="this version of sr has no train.cuda_graph")
        elif not (args.tiny and train.get("compile")):  # compilation takes minutes on the machines of the rehearsal
            makers[name] = partial(_our_step, args, folder / name, train, start, given)
    for name, make in makers.items():
        run = attempt(record, f"step, batch {batch}: {name}", lambda make=make: _warm(make()))
        if run is not None:
            arms[name] = run
            record(f"step, batch {batch}: {name}, images per second", batch / seconds(run, count))
    return arms


def _warm(run: Callable[[], object]) -> Callable[[], object]:
    for _ in range(3 if not NULL else 1):
        run()
    torch.cuda.synchronize()
    return run


def _our_step(
    args: argparse.Namespace, folder: Path, train: Mapping[str, Any], start: Any, given: Any
) -> Callable[[], object]:
    from bench_step import engine_of

    from sr.data.batch import RawBatch

    engine = engine_of(sizes(args, len(given.lq)), folder, "auto", train, start, given)
    return partial(engine.train_step, repeat(RawBatch([])))


def other(args: argparse.Namespace, record: Record) -> None:
    """Time ours against another trainer's networks, compiled, in bf16 with channels last."""
    from bench_step import GAN_WEIGHT, RATE
    from other_trainers import Other

    batch, count = (1, 2) if args.tiny else (12, 10)
    if args.other is None:
        record("step: best against traiNNer-redux", None, note="not measured; give its checkout by --other PATH")
        return
    theirs, given = reference(args, batch)
    start = theirs.start()
    del theirs
    with tempfile.TemporaryDirectory() as folder:
        known = {name: train for name, train in ways() if train is not None}
        name = next(n for n in ("graph, regional compile", "regional compile", "eager") if n in known)
        ours = _warm(_our_step(args, Path(folder, "ours"), known[name], start, given))
        rival = Other(args.other, sizes(args, batch), "bf16", start, given, rate=RATE, gan_weight=GAN_WEIGHT)
        _warm(rival.step)
        pairs = [(seconds(rival.step, count), seconds(ours, count)) for _ in range(3)]
        value = statistics.median(a / b for a, b in pairs)
        record(f"step: {name} against {args.other.name}", value, least=1.25, seconds=pairs)


def profile(args: argparse.Namespace, record: Record) -> None:
    """Profile three steps: the share of the time in which the GPU is busy, and the kernels that take most of it."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity

    from sr.train.builder import Builder

    with tempfile.TemporaryDirectory() as folder:
        trainer = Builder(recipe(args, Path(folder), batch=1 if args.tiny else 12)).trainer()
        batches = trainer.batches(0)
        raws = [next(batches) for _ in range(6)]
        for raw in raws[:3]:
            trainer.train_step(iter([raw]))
        kinds = [ProfilerActivity.CPU, *([] if NULL else [ProfilerActivity.CUDA])]
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=kinds, acc_events=True) as seen:
            began = time.perf_counter()
            for raw in raws[3:]:
                trainer.train_step(iter([raw]))
            torch.cuda.synchronize()
            spent = time.perf_counter() - began
    trace = args.rows.with_name("profile_trace.json")
    seen.export_chrome_trace(str(trace))
    rows = [row for row in seen.key_averages() if row.device_type == DeviceType.CUDA]
    busy = sum(row.self_device_time_total for row in rows) / 1e6
    top = sorted(rows, key=lambda row: -row.self_device_time_total)[:15]
    kernels = {row.key[:100]: [row.count / 3, round(row.self_device_time_total / 3e3, 3)] for row in top}
    record("profile: busy share of the GPU", busy / spent, kernels=kernels, trace=trace, step=spent / 3)


# ---- part B ----------------------------------------------------------------------------------------------------------


def generator(args: argparse.Namespace, record: Record) -> None:
    """Time forward and backward of the generator alone, as a share of the bf16 peak."""
    from bench_step import batch_of, engine_of
    from torch.utils.flop_counter import FlopCounterMode

    from sr.data.batch import RawBatch

    batch, count = (1, 2) if args.tiny else (48, 10)
    given, best = batch_of(sizes(args, batch)), 0.0
    name = torch.cuda.get_device_name(0)
    peak = next((rate for part, rate in PEAKS.items() if part in name), 0.0) or matmul_peak(CUDA, "bf16")
    with tempfile.TemporaryDirectory() as folder:
        for way, train in ways():
            if train is None or train.get("cuda_graph") or (args.tiny and train["compile"]):
                continue
            engine = engine_of(sizes(args, batch), Path(folder, way), "bf16", train, {}, given)
            net, pair = engine.players["generator"].module, engine.prepare(RawBatch([]))

            def run(engine: Any = engine, net: Any = net, pair: Any = pair) -> None:
                with engine._autocast():
                    output = net(pair.lq)
                torch.nn.functional.l1_loss(output.float(), pair.gt).backward()

            if not best:
                with FlopCounterMode(display=False) as counter:
                    run()
            spent = attempt(record, f"generator, {way}", lambda run=run: seconds(_warm(run), count))
            if spent is not None:
                share = counter.get_total_flops() / spent / peak
                best = max(best, share)
                record(f"generator, batch {batch}, {way}: share of the bf16 peak", share, seconds=spent, peak=peak)
    record(f"generator, batch {batch}: best share of the bf16 peak", best, least=0.3)


def real_run(args: argparse.Namespace, record: Record) -> None:
    """Measure the shares of degradation and data wait in the steps of a run from shards."""
    from sr.cli import main
    from sr.train.builder import Builder

    batch, count = (1, 2) if args.tiny else (12, 20)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert main(["shard", str(photos(folder)), str(folder / "shards"), "--size", "480"]) == 0
        workers = 0 if args.tiny else min(os.cpu_count() or 1, 16)
        source = f"data.source={{type: shards, path: {folder / 'shards'}}}"
        trainer = Builder(recipe(args, folder, source, f"data.workers={workers}", batch=batch)).trainer()
        batches, waited = trainer.batches(0), 0.0

        def waiting() -> Iterator[Any]:
            nonlocal waited
            while True:
                began = time.perf_counter()
                raw = next(batches)
                waited += time.perf_counter() - began
                yield raw

        feed, kept = waiting(), [next(batches) for _ in range(4)]
        again, prepare = (raw for raw in repeat(kept[0])), trainer.prepare
        for _ in range(3):
            trainer.train_step(feed)
        waited = 0.0
        whole = seconds(lambda: trainer.train_step(feed), count)
        share = waited / (whole * count)
        degraded = seconds(lambda: trainer.train_step(again), count)
        pair = prepare(kept[0])
        trainer.prepare = lambda raw: pair
        fixed = seconds(lambda: trainer.train_step(again), count)
        batches.close()
    record("real run: images per second", batch / whole)
    record("real run: share of the data wait", share, most=0.02)
    record("real run: share of the degradation", max(degraded - fixed, 0) / whole, most=0.05, fixed=fixed)


def upscaling(args: argparse.Namespace, record: Record) -> None:
    """Upscale a folder, and a 1080p image, against RealESRGANer in fp16."""
    import bench_upscale

    jobs = [(20, (480, 720), 4.0), (1, (1080, 1920), None)]
    for images, size, least in [(1, (48, 64), 4.0)] if args.tiny else jobs:
        net = {"num_feat": 16, "num_block": 1} if args.tiny else {"num_feat": 64, "num_block": 23}
        how = {"weights": None, "tile": None, "arms": ["ours, default"], "work": ["folder"], "memory": False}
        given = argparse.Namespace(size=size, images=images, pairs=1 if args.tiny else 3, device=CUDA, **net, **how)
        for row in bench_upscale.run(given)[1:]:
            name = f"upscaling {images} of {size[1]}x{size[0]} against RealESRGANer"
            record(name, row.ratio, least=least, seconds=row.seconds, deviation=row.deviation)


def memory(args: argparse.Namespace, record: Record) -> None:
    """Compare the peak memory of a step with what the null GPU counts, which has no workspaces."""
    for batch in [1] if args.tiny else [12, 48]:
        peaks = []
        for null in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "launches.json")
                words = ["options/realesrgan_x4.yml", "--batch", batch, "--steps", 1, "--json", file]
                words += [word for each in small(args) for word in ("--set", each)]
                words += [] if null else ["--real"]
                line = [sys.executable, "tools/benchmarks/launches.py", *map(str, words)]
                subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
                peaks.append(json.loads(file.read_text())["ours"]["peak_gib"])
        record(f"peak memory at batch {batch} against the null GPU", peaks[1] / peaks[0], most=1.2, gib=peaks)


# ---- part C ----------------------------------------------------------------------------------------------------------


def run_words(args: argparse.Namespace, folder: Path, *more: str) -> list[str]:
    """Return the arguments of a short `sr train`."""
    sets = [*SETS[:4], f"data.source={{type: folder, gt: {folder / 'photos'}}}", f"out={folder}", "name=run"]
    sets += ["data.batch_size=2", "data.workers=0", *small(args), *more]
    return ["train", "options/realesrgan_x4.yml", *(word for each in sets for word in ("--set", each))]


def resume(args: argparse.Namespace, record: Record) -> None:
    """Kill a run after a checkpoint, and resume it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos(folder)
        saved = folder / "run" / "checkpoints" / "step_00000002"
        long = program(*run_words(args, folder, "train.total_steps=100000", "save.every=2"))
        while long.poll() is None and not saved.is_dir():
            time.sleep(0.05)
        long.kill()
        said = long.communicate()[0]
        if not saved.is_dir():
            record("killed and resumed", 0, least=1, note=said[-300:])
            return
        last = max(int(each.name[5:]) for each in saved.parent.glob("step_*"))
        began = time.monotonic()
        again = program(*run_words(args, folder, f"train.total_steps={last + 2}", "save.every=1"), "--accept-changes")
        said = again.communicate()[0]
        done = again.returncode == 0 and f"at step {last}" in said
        done = done and (saved.parent / f"step_{last + 2:08}").is_dir()
        note = "" if done else said[-300:]
        record("killed and resumed", float(done), least=1, seconds=time.monotonic() - began, note=note)


def saving(args: argparse.Namespace, record: Record) -> None:
    """Time ten steps with and without a checkpoint among them, and one that logs."""
    from bench_step import batch_of

    batch, count = (1, 2) if args.tiny else (12, 10)
    given = batch_of(sizes(args, batch))
    with tempfile.TemporaryDirectory() as folder:
        step = _warm(_our_step(args, Path(folder, "run"), dict(ways())["eager"] or {}, {}, given))
        engine = step.func.__self__  # type: ignore[attr-defined]
        engine.save(), engine.saver.wait()  # the first one allocates

        def with_save() -> None:
            engine.save()
            for _ in range(count):
                step()

        plain = seconds(step, count) * count
        stopped = seconds(with_save, 1) - plain
        engine.saver.close()
    record("a checkpoint holds up training for (s)", stopped, ten_steps=plain)


def too_small(args: argparse.Namespace, record: Record) -> None:
    """Train with the memory capped to 2 GiB: one sentence and exit code 2."""
    with tempfile.TemporaryDirectory() as name:
        photos(Path(name))
        cap = "torch.cuda.set_per_process_memory_fraction(2 * 2**30 / torch.cuda.mem_get_info()[1])"
        sets = ["data.batch_size=12", "data.gt_size=256", "data.degrade_size=400"]
        done = program(
            *run_words(args, Path(name), *sets, "generator.num_feat=64", "generator.num_block=23"), before=cap
        )
        said = done.communicate()[0].strip().splitlines()
        right = done.returncode == 2 and said[-1].startswith("sr: ") and "Traceback" not in "".join(said)
    record("too little memory ends with one sentence", float(right), least=1, note="" if right else said[-1][:300])


def validation(args: argparse.Namespace, record: Record) -> None:
    """Time the validation of images of 2040 x 1356 by PSNR, SSIM and NIQE."""
    import numpy as np
    from PIL import Image

    from sr.train.builder import Builder

    height, width, count = (96, 96, 1) if args.tiny else (1356, 2040, 8)
    with tempfile.TemporaryDirectory() as name:
        hr = Path(name, "hr")
        hr.mkdir()
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(hr / f"{number}.png")
        sets = f"validation.sets={{own: {{hr: {hr}}}}}"
        metrics = "validation.metrics=[psnr_y, ssim_y, niqe]"
        trainer = Builder(recipe(args, Path(name), sets, metrics, batch=2)).trainer()
        assert trainer.evaluate is not None
        with trainer.ema.unsharded() as net:
            trainer.evaluate(net, first=1)
            spent = seconds(lambda: trainer.evaluate(net), 1)  # type: ignore[misc]
    record("validation of an image of 2040 x 1356 (s)", spent / count)


def sharded(args: argparse.Namespace, record: Record) -> None:
    """Train a few steps in one process under FSDP2, ZeRO-1, -2 and -3."""
    for backend in ("fsdp2", "zero1", "zero2", "zero3"):
        with tempfile.TemporaryDirectory() as name:
            photos(Path(name))
            shown = subprocess.run(
                ["bash", "-c", f". launch/backend.sh {backend}; env -0"], cwd=ROOT, check=True, capture_output=True
            ).stdout.decode()
            env = dict(each.split("=", 1) for each in shown.split("\0") if each)
            env |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + os.getpid() % 20000)}
            began = time.monotonic()
            done = program(*run_words(args, Path(name), "train.total_steps=3"), env=env)
            said = done.communicate()[0]
            note = "" if done.returncode == 0 else said[-300:]
        record(f"{backend} in one process", float(done.returncode == 0), least=1, note=note, s=time.monotonic() - began)


def quality(args: argparse.Namespace, record: Record) -> None:
    """Train a small RRDBNet for PSNR beside BasicSR, each for half of three minutes, on real photographs."""
    import time_to_quality
    from bench_degrade import photographs
    from PIL import Image

    from sr.cli import main

    side, length = (64, 2.0) if args.tiny else (480, 85.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("photos", "hr"):
            (folder / kind).mkdir()
        for number, image in enumerate(photographs(10, side)):
            pixels = (image.permute(1, 2, 0) * 255).round().byte().cpu().numpy()
            Image.fromarray(pixels).save(folder / ("hr" if number >= 8 else "photos") / f"{number}.png")
        cut = ["--size", str(min(side, 160)), "--step", "80"]
        assert main(["shard", str(folder / "photos"), str(folder / "shards"), *cut]) == 0
        sets = [f"data.source.path={folder / 'shards'}", f"validation.sets={{own: {{hr: {folder / 'hr'}}}}}"]
        sets += ["data.gt_size=32", "data.degrade_size=48", "data.workers=0"] if args.tiny else ["data.workers=4"]
        curves = time_to_quality.measure("options/rrdb_small_x4.yml", sets, folder, [length], slice_s=length / 4)
    (ours,), (theirs,) = curves["ours"], curves["BasicSR"]
    gain = max(ours[2:]) - max(theirs[2:])
    record(f"psnr_y after {length:.0f} s beside BasicSR (dB)", gain, least=0.0, ours=ours, BasicSR=theirs)


STAGES: dict[str, Callable[[argparse.Namespace, Record], None]] = {
    stage.__name__.replace("_", "-"): stage
    for stage in (
        *(syncs, parity, steps, other, profile),
        *(generator, real_run, upscaling, memory),
        *(resume, saving, too_small, validation, sharded, quality),
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--rows", type=Path, required=True, metavar="FILE", help="append one line of JSON per value")
    parser.add_argument("--batch", type=int, default=12, help="of `steps` (%(default)s)")
    parser.add_argument("--other", type=Path, metavar="PATH", help="a checkout of traiNNer-redux")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to rehearse")
    args = parser.parse_args()
    if NULL:
        from tests.null_gpu.__main__ import ignore_values

        ignore_values()
    STAGES[args.stage](args, Record(args.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
