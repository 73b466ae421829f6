"""Train in this process and compare the states of two runs."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr.train import build_nets
from sr.train.builder import Builder, load
from sr.train.trainer import Trainer
from tests.helpers.program import ROOT

Recipe = Callable[..., Path]


def engine(file: Path, *sets: str) -> Trainer:
    return Builder(load(file, sets)).trainer()


def state(engine: Trainer) -> dict[str, Tensor]:
    players = {f"{name}/{key}": value for name, p in engine.players.items() for key, value in p.state().items()}
    return players | {f"ema/{key}": value for key, value in engine.ema.state().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        difference = (value.double() - other[key].double()).abs().max().item()
        assert difference <= tolerance, f"{key} differs by {difference}"


def check_equal_shapes_once() -> None:
    """Compute the shapes of equal networks of sr once: with fake tensors, a second of nearly every run."""
    compute, known = build_nets._shapes, {}

    def shapes(net: torch.nn.Module, example: tuple[Any, ...], device: torch.device) -> Any:
        key = repr(net), example, device
        own = {type(module).__module__.partition(".")[0] for module in net.modules()} <= {"sr", "torch"}
        if key in known and own:
            return known[key]
        known[key] = compute(net, example, device)
        return known[key]

    build_nets._shapes = shapes


class Momentum(torch.optim.SGD):
    """An optimizer that is not part of sr."""

    def __init__(self, params: object, *, lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, lr=lr, momentum=momentum)  # type: ignore[arg-type]


# All processes are forked from one that has imported torch, which saves the start-up time of a launcher.
LEGS = """
import json, os, sys
from torch.utils import tensorboard
from sr import cli
from sr.train import run
ended = []
for world, port, arguments in json.loads(sys.argv[1]):
    launched = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            numbers = launched | {"RANK": rank, "LOCAL_RANK": rank} if world > 1 else {}
            os.environ.update({name: str(value) for name, value in numbers.items()})
            os._exit(cli.main(["train", *arguments]))
        children.append(child)
    ended.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
print(json.dumps(ended))
"""


def run_legs(legs: list[tuple[int, Path, tuple[str, ...]]]) -> tuple[list[list[int]], str]:
    """Train each of (processes, options file, overrides) in sequence; return their exit codes and output."""
    given = [(world, _free_port(), [str(file), *(f"--set={one}" for one in sets)]) for world, file, sets in legs]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LEGS, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
