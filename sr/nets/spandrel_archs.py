"""The architectures of spandrel as generators, built from scratch."""

import functools
import importlib
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from sr.core.errors import UserError, nearest
from sr.nets.adapt import adapt


class _Row(NamedTuple):
    """module: below spandrel.architectures, where it has another name. unused: the modules of a network that get no
    gradient, for which DDP would wait. assumed: the values that spandrel gives every model for parameters
    that it cannot see in the weights. The rest: see `adapt`."""

    multiple: int | str = 1
    minimum: int = 1
    module: str = ""
    scales: tuple[int, ...] | None = None
    defaults: Any = MappingProxyType({})
    unused: Callable[[nn.Module], Iterable[nn.Module]] | None = None
    assumed: Any = MappingProxyType({})


def _ending(name: str) -> Callable[[nn.Module], Iterable[nn.Module]]:
    return lambda net: [module for key, module in net.named_modules() if key.rpartition(".")[2] == name]


def _other_gates(net: Any) -> Iterable[nn.Module]:
    """FDAT's blocks have a spatial and a channel gate, and use one of them."""
    blocks = [block for group in net.groups for block in group.blocks]
    return [block.inter.sg if block.btype == "spatial" else block.inter.cg for block in blocks]


def _skipped_activations(net: nn.Module) -> Iterable[nn.Module]:
    """Return the activations of SwiftSRGAN's blocks that run without one."""
    blocks: list[Any] = [module for module in net.modules() if not getattr(module, "use_act", True)]
    return [block.act for block in blocks]


_SHUFFLE = {"upsampler": "pixelshuffle"}  # their own default does not upscale
ARCHITECTURES = {
    "ATD": _Row(minimum=8, defaults=_SHUFFLE),
    "CRAFT": _Row("window_size", minimum=16),
    "Compact": _Row(),
    "DAT": _Row(minimum=16),
    "DCTLSA": _Row(minimum=16, assumed={"num_head": 5}),
    "DITN": _Row("patch_size"),
    "DRCT": _Row("window_size", defaults=_SHUFFLE),
    "DnCNN": _Row(defaults={"in_nc": 3, "out_nc": 3}),
    "ESRGAN": _Row(minimum=2),
    "FDAT": _Row(unused=_other_gates),
    "FFTformer": _Row(32, unused=_ending("reduce_chan_level2")),
    "GRL": _Row(defaults=_SHUFFLE, assumed={"window_size": 32, "stripe_size": [64, 64], "stripe_shift": True}),
    "HAT": _Row(minimum=16, defaults={"window_size": 16}),
    "KBNet_l": _Row(16, module="KBNet"),
    "KBNet_s": _Row(16, module="KBNet"),
    "MoESR": _Row(minimum=2),
    "MoSR": _Row(),
    "NAFNet": _Row(),
    "OmniSR": _Row(minimum=16),
    "PLKSR": _Row(),
    "RCAN": _Row(),
    "RGT": _Row(minimum=16),
    "RealPLKSR": _Row(module="PLKSR"),
    "RetinexFormer": _Row(8),
    "SAFMN": _Row(8),
    "SAFMNBCIE": _Row(16),
    "SCUNet": _Row(minimum=40),
    "SPAN": _Row(defaults={"num_in_ch": 3, "num_out_ch": 3}, unused=_ending("eval_conv")),
    "SeemoRe": _Row(minimum=16),
    "Swin2SR": _Row(minimum=16, defaults={**_SHUFFLE, "window_size": 8}),
    "SwiftSRGAN": _Row(scales=(1, 2, 4, 8), unused=_skipped_activations),
    "SwinIR": _Row(minimum=16, defaults={**_SHUFFLE, "window_size": 8}),
    "UpCunet2x": _Row(minimum=32, module="RealCUGAN", scales=(2,)),
    "UpCunet2x_fast": _Row(4, minimum=40, module="RealCUGAN", scales=(2,)),
    "UpCunet3x": _Row(minimum=32, module="RealCUGAN", scales=(3,)),
    "UpCunet4x": _Row(minimum=32, module="RealCUGAN", scales=(4,)),
}
NAMED = tuple(f"spandrel.{name}" for name in ARCHITECTURES)
_REFUSED = {
    "AuraSR": "needs noise as a second input",
    "DRUNet": "needs a noise level as a fourth channel",
    "FBCNN": "also returns a JPEG quality",
    "GFPGAN": "restores aligned faces of 512 x 512",
    "HVICIDNet": "changes the brightness of a whole image",
    "IPT": "takes patches of one size",
    "LaMa": "needs a mask as a second input",
    "MMRealSR": "also returns degradation scores",
    "MixDehazeNet": "returns values in -1..1",
    "RestoreFormer": "restores aligned faces of 512 x 512",
    "Uformer": "takes square images only",
}


def members() -> dict[str, Callable[..., nn.Module]]:
    """Return the constructors of all of them by type."""
    return {f"spandrel.{name}": spandrel_arch(name) for name in ARCHITECTURES}


@functools.cache
def spandrel_arch(name: str) -> Callable[..., nn.Module]:
    """Return the constructor of an architecture of spandrel, as in `type: spandrel.SPAN`.

    It has spandrel's parameters, keyword-only; `scale` sets `upscale` or what it is called there. Parameters that hold
    code are left out. spandrel opens the trained models. Raises UserError for other names.
    """
    if name not in ARCHITECTURES:
        reason = f"is not supported: it {_REFUSED[name]}" if name in _REFUSED else "does not exist"
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"spandrel.{name} {reason}. Choose one of {known}.{nearest(name, list(ARCHITECTURES))}")
    row = ARCHITECTURES[name]
    kind = getattr(importlib.import_module(f"spandrel.architectures.{row.module or name}"), name)
    shared = {key: getattr(row, key) for key in ("multiple", "minimum", "scales", "defaults")}
    build = adapt(f"spandrel.{name}", kind, **shared)
    return _excluding(build, name) if row.unused else build


def exclude_unused(net: nn.Module, name: str) -> None:
    """Exclude the modules of an architecture that get no gradient from training, in place."""
    row = ARCHITECTURES.get(name)
    for module in row.unused(net) if row and row.unused else ():
        module.requires_grad_(False)


def _excluding(build: Callable[..., nn.Module], name: str) -> Any:
    @functools.wraps(build)
    def built(**kwargs: Any) -> nn.Module:
        net = build(**kwargs)
        exclude_unused(net, name)
        return net

    return built
