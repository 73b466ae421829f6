"""A plain training step with the networks of another trainer's checkout and that trainer's fastest settings."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from sr.core.errors import UserError
from sr.data.batch import Batch
from sr.distributed.backends.ddp import State
from sr.losses.perceptual import VGG19
from sr.train.model_optimizer import PRECISIONS

KNOWN = {  # a file that identifies the trainer -> {player: (file, class)}
    "traiNNer/archs/rrdbnet_arch.py": {
        "generator": ("traiNNer/archs/rrdbnet_arch.py", "esrgan"),
        "discriminator": ("traiNNer/archs/discriminator_arch.py", "UNetDiscriminatorSN"),
    },
    "neosr/archs/esrgan_arch.py": {
        "generator": ("neosr/archs/esrgan_arch.py", "esrgan"),
        "discriminator": ("neosr/archs/unet_arch.py", "unet"),
    },
}


class Other:
    """Autocast to `precision`, channels_last, both networks compiled; losses, order and EMA as in Real-ESRGAN.

    Only the files of the two networks are imported, with stubs for the option readers that they import.

    Raises:
        UserError: The checkout is unknown, or its networks have other sizes than requested.
    """

    def __init__(
        self,
        path: Path,
        args: argparse.Namespace,
        precision: str,
        start: Mapping[str, State],
        batch: Batch,
        *,
        rate: float,
        gan_weight: float,
    ) -> None:
        found = next((rows for marker, rows in KNOWN.items() if (path / marker).is_file()), None)
        if found is None:
            raise UserError(f"--other {path}: neither traiNNer-redux nor neosr; give the root of a checkout of one")
        if args.scale != 4 or args.feat != 64:
            raise UserError(f"--other {path}: supports only --scale 4 --feat 64; remove those options")
        self.precision, self.device = precision, args.device
        layout: dict[str, Any] = {"device": args.device, "memory_format": torch.channels_last}
        with _stubs(args.scale):
            kinds = {player: _load(path / file, name) for player, (file, name) in found.items()}
        sizes: dict[str, Any] = {"num_blocks": args.blocks} if "traiNNer" in found["generator"][0] else {}
        sizes = sizes or {"num_block": args.blocks}
        generator, average, discriminator = (
            kinds["generator"](**sizes),
            kinds["generator"](**sizes),
            kinds["discriminator"](3),
        )
        for net, values in ((generator, start["generator"]), (discriminator, start["discriminator"])):
            _fill(net, values, path)
        average.load_state_dict(generator.state_dict())
        self.plain = generator.to(**layout)
        self.average = [p.detach() for p in average.to(**layout).parameters()]
        self.generator, self.discriminator = torch.compile(self.plain), torch.compile(discriminator.to(**layout))
        self.perceptual, self.gan_weight = VGG19(weights="random").to(**layout), gan_weight
        self.optimizers = {
            "generator": torch.optim.Adam(self.plain.parameters(), lr=rate, betas=(0.9, 0.99)),
            "discriminator": torch.optim.Adam(discriminator.parameters(), lr=rate, betas=(0.9, 0.99)),
        }
        images = (batch.lq, batch.gt, batch.target)
        self.batch = Batch(*(i.contiguous(memory_format=torch.channels_last) for i in images))

    def autocast(self) -> torch.autocast:
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not torch.float32)

    def step(self) -> None:
        critic = self.discriminator
        critic.requires_grad_(False)
        self.optimizers["generator"].zero_grad()
        with self.autocast():
            fake = self.generator(self.batch.lq)
            loss = nn.functional.l1_loss(fake, self.batch.target) + self.perceptual(fake, self.batch.target)
            loss = loss + self.gan_weight * _gan_loss(critic(fake), 1.0)
        loss.backward()
        self.optimizers["generator"].step()
        critic.requires_grad_(True)
        self.optimizers["discriminator"].zero_grad()
        for images, label in ((self.batch.gt, 1.0), (fake.detach(), 0.0)):
            with self.autocast():
                loss = _gan_loss(critic(images), label)
            loss.backward()
        self.optimizers["discriminator"].step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.plain.parameters()), 0.001)


def _gan_loss(logits: Tensor, label: float) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def _fill(net: nn.Module, values: State, path: Path) -> None:
    """Copy the weights of the reference in order; only the names differ."""
    own = net.state_dict()
    if [value.shape for value in own.values()] != [value.shape for value in values.values()]:
        raise UserError(
            f"--other {path}: its networks differ from the reference; use a version listed in docs/benchmarks/speed.md"
        )
    net.load_state_dict(dict(zip(own, values.values(), strict=True)))


def _load(file: Path, name: str) -> Callable[..., nn.Module]:
    spec = importlib.util.spec_from_file_location(f"other_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Callable[..., nn.Module] = getattr(module, name)
    return made


@contextmanager
def _stubs(scale: int) -> Any:
    """Replace the option readers and registries of those trainers while their networks are imported."""
    registry = SimpleNamespace(register=lambda: lambda kind: kind)
    config = SimpleNamespace(get_scale=lambda: scale)
    contents: dict[str, dict[str, Any]] = {
        "traiNNer.utils.registry": {"ARCH_REGISTRY": registry, "SPANDREL_REGISTRY": registry},
        "traiNNer.utils.config": {"Config": config},
        "neosr.utils.registry": {"ARCH_REGISTRY": registry},
        "neosr.archs.arch_util": {"net_opt": lambda: (scale, True)},
    }
    names = {".".join(name.split(".")[: n + 1]) for name in contents for n in range(3)}
    before = {name: sys.modules.get(name) for name in names}
    for name in names:
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(contents.get(name, {}))
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
