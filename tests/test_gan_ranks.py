"""Two ranks with half a batch each are one process with the whole: relativistic means, penalties, batch norm."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as td
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sr.losses.adversarial.penalties import R1
from sr.losses.adversarial.relativistic import Relativistic
from sr.losses.adversarial.wgan import WGANGP
from sr.nets.patchgan import PatchGAN
from sr.nets.timm_disc import TimmDiscriminator
from sr.tasks.task import frozen

pytestmark = pytest.mark.distributed

BATCH = 4


def nets() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(4, 3, 3, padding=1))
    critic = PatchGAN(num_feat=4, num_layers=1, norm="none")
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(10)  # gradients well above rounding
    return generator, critic


def images(rows: slice, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    shape, generator = (BATCH, 3, size, size), torch.Generator().manual_seed(1)
    brightness = torch.linspace(0.2, 1, BATCH)[:, None, None, None]  # so that the ranks' means differ
    lq, real = (torch.rand(shape, generator=generator) * brightness for _ in range(2))
    return lq[rows], real[rows]


def step(generator: nn.Module, critic: nn.Module, rows: slice) -> dict[str, torch.Tensor]:
    """Gradients of both players after a step of `relativistic` and R1."""
    lq, real = images(rows)
    loss = Relativistic(base="lsgan")
    fake = generator(lq)
    with frozen(critic) as module:
        sum(loss.generator(module, real=real, fake=fake).values()).backward()
    shown = {"real": real, "fake": fake.detach()}
    sum((loss.discriminator(critic, **shown) | R1().discriminator(critic, **shown)).values()).backward()
    players = {"g": generator, "d": critic}
    return {
        f"{name}.{key.removeprefix('module.')}": parameter.grad
        for name, player in players.items()
        for key, parameter in player.named_parameters()
    }


def batch_norm_step(net: nn.Module) -> torch.Tensor:
    """Three forwards of a net with batch norm before one backward; a number that differs per rank."""
    real, fake = images(slice(0, 2) if td.get_rank() else slice(2, 4), size=64)
    critic = DistributedDataParallel(net)
    for _ in range(2):
        sum(WGANGP().discriminator(critic, real=real, fake=fake).values()).backward()
    return torch.stack([parameter.grad.double().norm() for parameter in net.parameters()])


def work(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    td.init_process_group("gloo", rank=rank, world_size=2)
    wrapped = [DistributedDataParallel(net, gradient_as_bucket_view=True) for net in nets()]
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    result = {"gradients": step(*wrapped, half)}
    for name, net in (
        ("patchgan", PatchGAN(num_feat=4, num_layers=1)),
        ("timm", TimmDiscriminator(name="test_resnet")),
    ):
        result[name] = batch_norm_step(net)
    torch.save(result, folder / f"{rank}.pt")
    td.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(work, (port, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_ranks_equal_one_process(results):
    whole = step(*nets(), slice(None))
    for result in results:
        assert result["gradients"].keys() == whole.keys()
        for name, gradient in whole.items():
            assert torch.allclose(result["gradients"][name], gradient, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("net", ["patchgan", "timm"])
def test_batch_norm_trains_on_two_ranks_alike(net, results):
    first, second = (result[net] for result in results)
    assert first.isfinite().all()
    assert first.any()
    assert torch.equal(first, second)
