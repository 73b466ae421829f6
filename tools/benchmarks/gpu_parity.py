"""Compare networks, losses, gradients and degradation stages on a device with float64 on the CPU."""

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sr.degrade import STAGES
from sr.degrade.draws import draws
from sr.losses import ADVERSARIAL, GAN_TERMS, RECONSTRUCTION
from sr.nets import DISCRIMINATORS, GENERATORS
from sr.nets.device import place
from sr.nets.patchgan import PatchGAN
from sr.tasks.task import Critic

NETS: dict[str, dict[str, Any]] = {  # small, but with every kind of layer; the side of the input in pixels
    "rrdbnet": {"scale": 4, "num_feat": 32, "num_block": 2, "side": 32},
    "srresnet": {"scale": 4, "num_feat": 32, "num_block": 2, "side": 32},
    "edsr": {"scale": 2, "num_feat": 32, "num_block": 2, "side": 32},
    "rcan": {"scale": 2, "num_feat": 32, "num_group": 1, "num_block": 2, "side": 32},
    "compact": {"scale": 4, "num_feat": 32, "num_conv": 3, "side": 32},
    "unet_128": {"scale": 1, "num_feat": 16, "dropout": False, "side": 128},
    "resnet_6blocks": {"scale": 1, "num_feat": 16, "side": 64},
    "unet_sn": {"num_feat": 16, "side": 64},
    "patchgan": {"num_feat": 16, "side": 64},
    "vgg": {"num_feat": 16, "side": 128},
}
CPU = torch.device("cpu")
NEEDS_FILES = {"distill"}  # losses that cannot be built from their arguments alone
RANDOM = {"wgan_gp", "gradient_penalty"}  # they mix images by random numbers of the device


def error(got: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference relative to the norm of `wanted`."""
    a, b = got.detach().double().cpu(), wanted.detach().double().cpu()
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


def nets(device: torch.device, dtype: torch.dtype | None) -> Iterator[tuple[str, float, float]]:
    """Yield (name, error of the output, error of the gradients). dtype: autocast to it; None: float32 without TF32."""
    for name, given in NETS.items():
        how = dict(given)
        side = how.pop("side")
        torch.manual_seed(0)
        net = (GENERATORS.get(name) or DISCRIMINATORS[name])(**how).train()
        x = torch.rand(2, 3, side, side, dtype=torch.float64)
        wanted = _output_and_gradients(copy.deepcopy(net).double(), x)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None), _exact():
            layout = torch.channels_last
            got = _output_and_gradients(place(net, device), x.float().to(device).contiguous(memory_format=layout))
        yield name, error(got[0], wanted[0]), error(got[1], wanted[1])


def _output_and_gradients(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    made = net(x)
    maps = made if isinstance(made, list) else [made]
    output = torch.cat([each.flatten().to(x.dtype) for each in maps])
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).to(output)
    (output * weights).mean().backward()
    return output, torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def _exact() -> Any:
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False)


def losses(device: torch.device) -> Iterator[tuple[str, float, float]]:
    """Yield (name, error of the value, error of the gradient of the output)."""
    torch.manual_seed(0)
    wanted, noise = (torch.rand(1, 3, 176, 176, dtype=torch.float64) for _ in range(2))
    output = (wanted + 0.1 * (noise - 0.5)).clamp(0, 1)
    for name, kind in RECONSTRUCTION.items():
        if name in NEEDS_FILES:
            continue
        given = {"weights": "random"} if "weights" in inspect.signature(kind).parameters else {}
        try:
            loss = kind(**given)
        except Exception as failure:  # an optional package, or its files, are missing
            print(f"{name} is left out: {failure}")
            continue
        side = 176 if name in ("ms_ssim", "fdl") else 64  # they halve the images four times
        images = [each[..., :side, :side] for each in (output, wanted)]
        made = [
            _loss(copy.deepcopy(loss), *images, *where) for where in ((CPU, torch.float64), (device, torch.float32))
        ]
        yield name, error(made[1][0], made[0][0]), error(made[1][1], made[0][1])
    yield from _adversarial(device, wanted[..., :64, :64], output[..., :64, :64])


def _loss(loss: Any, output: Tensor, wanted: Tensor, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if isinstance(loss, nn.Module):
        loss = loss.to(device, dtype)
    x, target = (each.to(device, dtype) for each in (output, wanted))
    x = x.detach().requires_grad_(True)
    with _exact():
        if hasattr(loss, "compare"):
            from sr.data.batch import Batch

            lq = target[..., ::4, ::4]
            value = loss.compare(x, batch=Batch(lq, target, target), average=lambda given: target * 0.99)
        else:
            value = loss(x, target)
        (gradient,) = torch.autograd.grad(value, x)
    return value, gradient


def _adversarial(device: torch.device, real: Tensor, fake: Tensor) -> Iterator[tuple[str, float, float]]:
    """The losses of both players, with the gradients of the critic and of the fake."""
    torch.manual_seed(0)
    net = PatchGAN(num_feat=16, norm="none")
    for name, kind in (ADVERSARIAL | GAN_TERMS).items():
        if name in RANDOM:
            continue
        made = []
        wanted_type = torch.float32 if name in GAN_TERMS else torch.float64  # penalties convert images to float32
        for where, dtype in ((CPU, wanted_type), (device, torch.float32)):
            critic = copy.deepcopy(net).to(where, dtype)
            images = {"real": real.to(where, dtype), "fake": fake.to(where, dtype).requires_grad_(True)}
            judge = Critic(critic, **images)
            with _exact():
                found = [*kind().generator(judge, **images).values(), *kind().discriminator(judge, **images).values()]
                total = torch.stack([each.to(dtype) for each in found]).sum()
                inputs = [*critic.parameters(), images["fake"]]
                gradients = torch.autograd.grad(total, inputs, allow_unused=True)
            made.append((total, torch.cat([g.flatten() for g in gradients if g is not None])))
        yield name, error(made[1][0], made[0][0]), error(made[1][1], made[0][1])


def stages(device: torch.device, images: list[Tensor]) -> Iterator[tuple[str, float]]:
    """Yield (stage, mean absolute error in 0..1); for noise, the error of its standard deviation relative to it.

    images: [3, h, w] in 0..1, of any sizes.
    """
    for name, kind in STAGES.items():
        if name == "one_of":  # made of other stages
            continue
        wanted = _degraded(kind, [image.double().cpu() for image in images])
        got = _degraded(kind, [image.float().to(device) for image in images])
        pairs = list(zip(got, wanted, images, strict=True))
        if name == "noise":  # devices have different generators
            spread = [[(each.double().cpu() - clean.cpu()).std() for each in (a, b)] for a, b, clean in pairs]
            yield name, max(float((a / b - 1).abs()) for a, b in spread)
        else:
            yield name, max(float((a.double().cpu() - b).abs().mean()) for a, b, _ in pairs)


def _degraded(kind: Callable[..., Any], images: list[Tensor]) -> list[Tensor]:
    height, width = images[0].shape[-2:]
    keyed = draws(0, 1, range(len(images)), lq_size=(height // 4, width // 4), device=images[0].device)
    fixed = {"patterns": {"bayer": 1.0}} if kind is STAGES["dither"] else {}  # devices have different generators
    made: list[Tensor] = kind(**fixed)([image.clone() for image in images], keyed)
    return made
