"""Run a training on the hosts of a cluster, restart it as a scheduler would, and inject faults."""

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cluster import Cluster, address, send

PATIENCE = 900.0  # seconds to wait for an event; all hosts share the cores of one machine
ROOT = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """A run ended or hangs where it should not."""


class Run:
    """One training on all hosts of a cluster, or (`alone`) by one process on the first host.

    Args:
        args: The arguments of cluster_test.py.
        cluster: Where it runs.
        name: Name of the run.
        steps: train.total_steps.
        alone: Run a single process without a launcher.

    Attributes:
        timeout: train.timeout, in seconds.
        restarts: How often a launcher restarts its processes.
        relaunch: Whether a launcher that fails is started again.
    """

    def __init__(self, args: argparse.Namespace, cluster: Cluster, name: str, *, steps: int, alone: bool) -> None:
        self.args, self.cluster, self.name, self.steps, self.alone = args, cluster, name, steps, alone
        self.timeout, self.restarts, self.relaunch = args.timeout, args.restarts, True
        self.nodes = range(1) if alone else cluster.nodes
        self.root, self.logs = args.out / "runs" / name / "checkpoints", args.out / "logs" / name
        self.logs.mkdir(parents=True)
        self.launchers: dict[int, subprocess.Popen[bytes]] = {}
        self.launches = dict.fromkeys(self.nodes, 0)
        self.codes: dict[int, int] = {}

    @property
    def step(self) -> int:
        """The last step in the log of the run."""
        log = self.root.with_name("log.jsonl")
        lines = log.read_text().splitlines() if log.exists() else []
        return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)

    def log(self, node: int, launch: int) -> Path:
        return self.logs / f"node{node}.launch{launch}.log"

    def clock(self, node: int) -> Path:
        """The file that holds the offset of a host's clock in seconds; see clock/sitecustomize.py."""
        return self.args.out / f"clock{node}"

    def memory(self) -> float:
        """Return the resident memory of all processes of the hosts, in MiB."""
        pages = 0
        for pid in (pid for node in self.nodes for pid in self.cluster.pids(node)):
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    def output(self, node: int) -> str:
        """Return the output of all launches of a host."""
        return "".join(self.log(node, n).read_text(errors="replace") for n in range(self.launches[node]))

    @property
    def resumed(self) -> list[int]:
        """The steps from which the run resumed."""
        return [int(piece.split(maxsplit=1)[0]) for piece in self.output(0).split(f"{self.name} at step ")[1:]]

    def command(self, node: int) -> list[str]:
        settings = {"name": self.name, "train.total_steps": self.steps, "train.timeout": self.timeout}
        train = ["-m", "sr", "train", str(self.args.out / "recipe.yml")]
        train += [f"--set={key}={value}" for key, value in settings.items()]
        if self.alone:
            return [sys.executable, *train]
        hosts = len(self.nodes)
        launch = {
            "num_processes": hosts * self.args.processes,  # over all hosts
            "num_machines": hosts,
            "machine_rank": node,
            "main_process_ip": address(0),
            "main_process_port": 29600,
            "max_restarts": self.restarts,
            "monitor_interval": 1,
            "mixed_precision": "no",
            "dynamo_backend": "no",
        }
        given = [word for key, value in launch.items() for word in (f"--{key}", str(value))]
        return [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *given, *train]

    def start(self, node: int) -> None:
        env = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        env |= {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "eth0"}
        if (clock := self.clock(node)).exists():
            env |= {"CLOCK_FILE": str(clock), "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent / 'clock'}"}
        env |= {"CLUSTER_NODE": str(node), "NO_PROXY": "*"}  # for options with a folder of each host, and for servers
        log, self.launches[node] = self.log(node, self.launches[node]), self.launches[node] + 1
        self.launchers[node] = self.cluster.start(node, self.command(node), env=env, log=log)

    def supervise(self) -> bool:
        """Start the launchers, and failed ones again. Return whether all have ended."""
        for node in self.nodes:
            code = self.launchers[node].poll() if node in self.launchers else -1
            if code is None or node in self.codes:
                continue
            if code and (self.relaunch or node not in self.launchers):
                self.cluster.kill(node)  # as a scheduler does before a restart
                self.start(node)
            else:
                self.codes[node] = code
        return len(self.codes) == len(self.nodes)

    def until(self, what: Callable[[], bool], *, patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while not what():
            if self.supervise() and not what():
                raise Failed(f"{self.name} ended with {self.codes} at step {self.step}")
            if time.monotonic() > deadline:
                raise Failed(f"{self.name} hangs: no progress for {patience:.0f} s at step {self.step}")
            time.sleep(0.05)

    def reach(self, step: int) -> None:
        self.until(lambda: self.step >= step)

    def wait(self, seconds: float) -> None:
        over = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > over)

    def finish(self) -> None:
        self.until(self.supervise)
        if any(self.codes.values()) or self.step != self.steps:
            raise Failed(f"{self.name} ended with {self.codes} at step {self.step}")


# ---- faults: (run, node, random numbers) -> description --------------------------------------------------------------


def kill_worker(run: Run, node: int, rng: random.Random) -> str:
    workers = run.cluster.workers(node)
    if workers:
        send(rng.choice(workers), signal.SIGKILL)
    return f"kill -9 of a worker of node{node}{'' if workers else ' (none yet)'}"


def kill_launcher(run: Run, node: int, rng: random.Random) -> str:
    send(run.launchers[node].pid, signal.SIGKILL)
    return f"kill -9 of the launcher of node{node}"


def kill_node(run: Run, node: int, rng: random.Random) -> str:
    run.cluster.kill(node)
    return f"kill -9 of all of node{node}"


def cut(run: Run, node: int, rng: random.Random, seconds: float | None = None) -> str:
    seconds = seconds or rng.uniform(1, 15)
    run.cluster.link(node, up=False)
    run.wait(seconds)
    run.cluster.link(node, up=True)
    return f"link of node{node} down for {seconds:.0f} s"


def cut10(run: Run, node: int, rng: random.Random) -> str:
    return cut(run, node, rng, 10)


def freeze(run: Run, node: int, rng: random.Random) -> str:
    seconds = rng.uniform(1, 15)
    stopped = run.cluster.pids(node)
    for pid in stopped:
        send(pid, signal.SIGSTOP)
    run.wait(seconds)
    for pid in stopped:
        send(pid, signal.SIGCONT)
    return f"all of node{node} frozen for {seconds:.0f} s"


def full_disk(run: Run, node: int, rng: random.Random) -> str:
    """Fill the file system of the runs (the disk that all hosts share), and free it after a while."""
    seconds, filler = rng.uniform(5, 30), run.root.parents[1] / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    run.wait(seconds)
    filler.unlink()
    return f"disk full for {seconds:.0f} s"


def clock_jump(run: Run, node: int, rng: random.Random) -> str:
    jump = rng.choice([-1, 1]) * rng.randint(60, 7200)
    run.clock(node).write_text(str(jump))
    return f"clock of node{node} now {jump:+d} s off"


Fault = Callable[[Run, int, random.Random], str]
FAULTS: dict[str, Fault] = {
    "kill_worker": kill_worker,
    "kill_launcher": kill_launcher,
    "kill_node": kill_node,
    "cut10": cut10,
}
RANDOM: list[Fault] = [kill_worker, kill_launcher, kill_node, cut, freeze]
SOAK: list[Fault] = [*RANDOM, full_disk, clock_jump]
