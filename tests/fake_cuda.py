"""The forward passes of a training step on fake CUDA tensors: finds mixed devices and host syncs with file and line.

    python -m tests.fake_cuda options/realesrgan_x4.yml [--set KEY=VALUE] [--break sync|device]

Needs neither a GPU nor a driver. It covers degradation, the networks, losses, diagnostics and the meter, but not
the backward pass, streams, copies from pinned memory, and kernels; for those see tests/null_gpu. --break adds a fault,
to show that the check can fail. Prints the syncs; the exit code is 1 if there are any.
"""

import argparse
import collections
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parents[1]
CUDA, BATCH = torch.device("cuda:0"), 4
WAITS = "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_pinned"


class NoGenerator:
    """A CUDA generator would open a context."""

    def manual_seed(self, seed: int) -> "NoGenerator":
        return self

    def initial_seed(self) -> int:
        return 0


def pretend() -> None:
    """Answer what the program asks the driver, as an H100 would."""
    torch._C._ensureCUDADeviceGuardSet()  # a guard that does nothing, as FakeTensorMode sets where there is no GPU
    answers = {"is_available": True, "device_count": 1, "current_device": 0, "is_bf16_supported": True}
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *given, answer=answer, **how: answer)
    torch.cuda.get_device_capability = lambda *given: (9, 0)
    torch.manual_seed = torch.default_generator.manual_seed  # type: ignore[assignment]
    generator = torch.Generator

    def make(device: Any = "cpu") -> Any:
        return NoGenerator() if torch.device(device).type == "cuda" else generator(device)

    torch.Generator = make  # type: ignore[misc,assignment]
    for name in ("rand", "randn", "poisson"):
        setattr(torch, name, _without_generator(getattr(torch, name)))
    upload = lambda values, device: torch.empty(values.shape, dtype=values.dtype, device=device)  # noqa: E731
    from sr.degrade import draws

    plain = draws.upload
    for module in list(sys.modules.values()):
        if getattr(module, "upload", None) is plain:
            module.upload = upload  # type: ignore[attr-defined]


def _without_generator(function: Any) -> Any:
    def called(*given: Any, generator: Any = None, **how: Any) -> Any:
        more = {} if generator is None or isinstance(generator, NoGenerator) else {"generator": generator}
        return function(*given, **how, **more)

    return called


def _is_own(path: Path) -> bool:
    """Whether a file is the program's: below the checkout, which may hold a virtual environment too."""
    return path.is_relative_to(ROOT) and "site-packages" not in path.parts


class Syncs(TorchDispatchMode):
    """Collects the operations that would wait for the device, with the line of the program."""

    def __init__(self) -> None:
        super().__init__()
        self.found: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, how = func.__name__.partition(".")[0], kwargs or {}
        to_host = name == "_to_copy" and how.get("device") == torch.device("cpu") and args[0].device.type == "cuda"
        if name in WAITS or to_host:
            own = [frame for frame in traceback.extract_stack()[:-1] if _is_own(Path(frame.filename))]
            self.found[f"{name} in {Path(own[-1].filename).relative_to(ROOT)}:{own[-1].lineno}"] += 1
        if name == "_local_scalar_dense":  # a fake tensor has no value
            return 1.0
        return func(*args, **how)


def on_device(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Replace the tensors of a module by fake CUDA tensors of the same layout."""
    for each in module.modules():
        for kept in (each._parameters, each._buffers):
            for name, old in list(kept.items()):
                if old is None:
                    continue
                with mode:
                    new = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device=CUDA)
                kept[name] = nn.Parameter(new, requires_grad=old.requires_grad) if kept is each._parameters else new
    return module


def step(file: str, sets: list[str], fault: str | None) -> Syncs:
    """Run the forward passes of a step; raises where devices are mixed."""
    from sr.data.batch import RawBatch, SubBatch
    from sr.degrade.on_device import OnDeviceBatch
    from sr.train import diagnostics
    from sr.train.builder import Builder, load
    from sr.train.tracker import Meter

    mode, syncs = FakeTensorMode(allow_non_fake_inputs=False), Syncs()
    fixed = ["data.workers=0", "validation.sets={}", f"out={tempfile.mkdtemp()}", f"data.batch_size={BATCH}"]
    trainer = Builder(load(file, [*fixed, *sets])).trainer()
    task, options = trainer.task, trainer.options
    nets = {name: on_device(player.raw, mode) for name, player in trainer.players.items()}
    for _, term in getattr(vars(task).get("reconstruction"), "terms", {}).values():
        on_device(term, mode)
    degradation = trainer.prepare.degradation  # type: ignore[attr-defined]
    pretend()
    side, meter = options.data.degrade_size or options.data.gt_size, Meter()
    with mode, syncs:
        rows = list(range(BATCH))
        group = SubBatch(rows, rows, torch.empty(BATCH, 3, side, side, dtype=torch.uint8), None)
        batch = OnDeviceBatch(degradation, device=CUDA, channels_last=True)(RawBatch([group]))
        assert batch.lq.device.type == "cuda"
        if fault == "device":
            batch = type(batch)(batch.lq, batch.gt.cpu(), batch.target.cpu())
        phases = task.step(batch, 0)
        while True:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                phase = next(phases, None)
            if phase is None:
                return syncs
            assert all(loss.device.type == "cuda" for loss in phase.losses.values())
            if fault == "sync":
                float(next(iter(phase.losses.values())))
            if phase.output is not None and phase.target is not None:
                meter.add(diagnostics.looks(phase.output, phase.target), step=1, checked=False)
            meter.add(phase.losses, step=1)
            torch.nn.utils.get_total_norm([torch.empty_like(p) for p in nets[phase.player].parameters()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--break", dest="fault", choices=["sync", "device"])
    args = parser.parse_args()
    found = step(args.file, args.set, args.fault).found
    print("\n".join(f"{count} x {name}" for name, count in found.items()) or "no syncs")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
