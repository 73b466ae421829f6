"""Lost processes: the remaining ones name them and end; long work on one rank is waited for."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as td
from torch.nn.parallel import DistributedDataParallel

from sr import cli
from sr.core.errors import UserError
from sr.distributed import comm, rendezvous, watchdog
from sr.distributed.backends.ddp import DDP
from sr.train.builder import Builder, load

pytestmark = pytest.mark.distributed

TIMEOUT = 4.0
HOST = socket.gethostname()

# ---- what the processes do -------------------------------------------------------------------------------------------


def step(number: int) -> None:
    with comm.watched(number):
        td.all_reduce(torch.ones(3))
        print(number, flush=True)
        time.sleep(0.05)


def steps() -> None:
    for number in range(1, 1000):
        step(number)


def long_work() -> None:
    step(1)
    comm.on_main(lambda: time.sleep(1.5 * TIMEOUT))
    step(2)


def stuck_reading() -> None:
    step(1)
    with comm.watched(2):
        time.sleep(60 if comm.rank() else 0)
        td.all_reduce(torch.ones(3))


def stuck_with_the_gil() -> None:
    step(1)
    with comm.watched(2):
        if comm.rank():
            ctypes.PyDLL(None).sleep(60)
        td.all_reduce(torch.ones(3))


def fails_alone() -> None:
    step(1)
    if comm.rank() == 2:
        raise UserError("photo.png: is no image; remove it")
    step(2)


def breaks_alone() -> None:
    step(1)
    if comm.rank():
        raise ZeroDivisionError("a defect")
    step(2)


def reads_alone() -> None:
    os.chdir(Path(os.environ["FOLDER"], f"rank{comm.rank()}"))
    Builder(load("tiny.yml")).source()


def fails_alike() -> None:
    step(1)
    raise UserError("there is no room; make some")


def two_starts() -> None:
    """The second step of one start, and the same step as the first of another."""
    torch.manual_seed(comm.rank())
    batches = torch.rand(2, 4, 7)
    one = wrapped(None)
    train(one, batches[0])
    state = {name: value.clone() for name, value in one.raw.state_dict().items()}
    other = wrapped(state)
    gradients = [train(start, batches[1]) for start in (one, other)]
    assert all(map(torch.equal, *gradients))
    print("equal", flush=True)


def wrapped(state: dict[str, torch.Tensor] | None) -> DDP:
    torch.manual_seed(9)
    net = torch.nn.Sequential(torch.nn.Linear(11, 5), torch.nn.Linear(7, 11))  # not in the order of use
    net.load_state_dict(state or net.state_dict())
    net.forward = lambda x: net[0](net[1](x))
    return DDP(net, torch.optim.SGD(net.parameters(), lr=0.1), prepare=DistributedDataParallel)


def train(start: DDP, batch: torch.Tensor) -> list[torch.Tensor]:
    start.module(batch).square().mean().backward()
    gradients = [parameter.grad.clone() for parameter in start.raw.parameters()]
    start.optimizer.step()
    start.optimizer.zero_grad()
    return gradients


def main(name: str) -> int:
    rendezvous.RENDEZVOUS_SECONDS = 1.0 if name == "waits_for_nobody" else 60.0
    timeout = 60.0 if name == "two_starts" else TIMEOUT
    comm.meet(timeout)
    td.init_process_group("gloo", timeout=timedelta(seconds=timeout))
    comm.resumes(lambda: "step 0")
    globals()[name]()
    comm.shutdown()
    td.destroy_process_group()
    return 0


def process(name: str, env: dict[str, str], log: Path) -> None:
    """A process of the program `name`, with the ends that `sr.cli.main` gives it."""
    os.environ |= env
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1), os.dup2(file, 2)
    try:
        code = main(name)
    except UserError as error:
        code = cli._failed(str(error), error.exit_code)
    except Exception as error:
        code = cli._failed(*(comm.lost(error) or (f"{error!r}", 70)))
    os._exit(code)


# ---- how they are started and watched --------------------------------------------------------------------------------


class Ranks:
    """All processes of a program, their output in files; forked off one that has imported all this already."""

    def __init__(self, folder: Path, name: str, only: Sequence[int], **env: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **env}
        self.logs = {rank: folder / f"{rank}.log" for rank in only}
        self.processes = {}
        context = get_context("forkserver")
        context.set_forkserver_preload([__name__, "torch._dynamo"])  # DDP imports it
        for rank, log in self.logs.items():
            log.touch()
            given = name, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, log
            self.processes[rank] = context.Process(target=process, args=given)
            self.processes[rank].start()

    def reach(self, number: int) -> None:
        deadline = time.monotonic() + 60
        while str(number) not in self.logs[0].read_text().split():
            assert all(process.is_alive() for process in self.processes.values()), self.said(0) + self.said(1)
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def send(self, rank: int, number: int) -> None:
        os.kill(self.processes[rank].pid, number)

    def end(self, rank: int) -> int | None:
        """Its exit code; None where it has not ended."""
        self.processes[rank].join(60)
        return self.processes[rank].exitcode

    def said(self, rank: int) -> str:
        return self.logs[rank].read_text()


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Callable[..., Ranks]]:
    with contextlib.ExitStack() as stack:

        def start(name: str, only: Sequence[int] = (0, 1), **env: str) -> Ranks:
            made = Ranks(tmp_path, name, only, **env)
            for process in made.processes.values():
                stack.callback(process.join)
                stack.callback(process.kill)
            return made

        yield start


@pytest.mark.parametrize("gone", [0, 1])
def test_a_killed_process_is_named_at_once(ranks: Callable[..., Ranks], gone: int) -> None:
    run = ranks("steps")
    run.reach(5)
    run.send(gone, signal.SIGKILL)
    assert run.end(1 - gone) == watchdog.LOST
    said = run.said(1 - gone)
    assert f"rank {gone} on {HOST} (127.0.0.1) was lost (connection closed), at step " in said
    assert "start the same command again on every machine: it resumes from step 0" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("gone", [0, 1])
def test_a_frozen_process_is_named(ranks: Callable[..., Ranks], gone: int) -> None:
    """Stopped, it keeps its connections, as behind a cut link."""
    run = ranks("steps")
    run.reach(5)
    run.send(gone, signal.SIGSTOP)
    assert run.end(1 - gone) == watchdog.LOST
    assert f"rank {gone} on {HOST} (127.0.0.1) was lost (no heartbeat for 2 s)" in run.said(1 - gone)
    run.send(gone, signal.SIGCONT)
    assert run.end(gone) == watchdog.LOST


def test_work_of_rank_0_may_take_longer_than_any_timeout(ranks: Callable[..., Ranks]) -> None:
    """Started as by a launcher whose store still holds what an attempt that is over left there."""
    store = td.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    store.set(rendezvous._KEY, "9 0123456789abcdef")
    for rank in range(2):
        store.set(f"default_pg/0//cpu//{rank}", "gone")
    run = ranks("long_work", MASTER_PORT=str(store.port), TORCHELASTIC_USE_AGENT_STORE="True")
    assert [run.end(rank) for rank in (0, 1)] == [0, 0], run.said(0) + run.said(1)


def test_a_step_that_hangs_on_one_rank_shows_where(ranks: Callable[..., Ranks]) -> None:
    run = ranks("stuck_reading")
    run.reach(1)
    assert [run.end(rank) for rank in (0, 1)] == [watchdog.LOST, watchdog.LOST]
    assert "in stuck_reading" in run.said(1)  # the stack of the one that holds up the other
    assert "no step was finished in 4 s" in run.said(1)


def test_a_process_whose_threads_cannot_run_ends_too(ranks: Callable[..., Ranks]) -> None:
    run = ranks("stuck_with_the_gil")
    assert run.end(0) == watchdog.LOST
    assert "was lost (no heartbeat for 2 s), at step 2" in run.said(0)
    assert run.end(1) == 1
    assert "in stuck_with_the_gil" in run.said(1)


def test_a_user_error_on_one_rank_ends_all_with_the_same_message(ranks: Callable[..., Ranks]) -> None:
    """A scheduler that starts lost processes again must not take the others for lost."""
    run = ranks("fails_alone", only=range(3), WORLD_SIZE="3")
    assert [run.end(rank) for rank in (2, 1, 0)] == [2, 2, 2]
    for rank in (0, 1):
        told = f"at step 2, rank 2 on {HOST} (127.0.0.1) ended: photo.png: is no image; remove it"
        assert told in run.said(rank)
        assert "start the same command again" not in run.said(rank)


def test_a_defect_on_one_rank_ends_the_other_with_its_code(ranks: Callable[..., Ranks]) -> None:
    run = ranks("breaks_alone")
    assert (run.end(1), run.end(0)) == (70, 70)
    assert f"at step 2, rank 1 on {HOST} (127.0.0.1) ended: ZeroDivisionError('a defect')" in run.said(0)


def test_images_that_one_rank_cannot_see_end_all_with_one_sentence(
    ranks: Callable[..., Ranks], recipe: Callable[..., Path], tmp_path: Path
) -> None:
    file = recipe(data__source={"type": "folder", "gt": "photos"})
    for rank in range(2):
        shutil.copytree(tmp_path / "photos", tmp_path / f"rank{rank}" / "photos")
        shutil.copy(file, tmp_path / f"rank{rank}")
    shutil.rmtree(tmp_path / "rank1" / "photos")
    run = ranks("reads_alone", FOLDER=str(tmp_path))
    assert (run.end(1), run.end(0)) == (2, 2)
    assert f"sr: rank 1 on {HOST}: there is no 'photos'; correct the path" in run.said(0)
    assert "sr (rank 1): there is no 'photos'" in run.said(1)
    assert "Traceback" not in run.said(0) + run.said(1)


def test_an_error_on_every_rank_is_reported_by_each(ranks: Callable[..., Ranks]) -> None:
    run = ranks("fails_alike")
    assert (run.end(0), run.end(1)) == (2, 2)
    assert run.said(0).splitlines()[1:] == ["sr: there is no room; make some"]
    assert run.said(1).splitlines()[1:] == ["sr (rank 1): there is no room; make some"]


def test_the_first_step_after_a_start_adds_up_as_any_other(ranks: Callable[..., Ranks]) -> None:
    run = ranks("two_starts", only=range(3), WORLD_SIZE="3")
    assert [run.end(rank) for rank in range(3)] == [0] * 3, run.said(0)
    assert "equal" in run.said(0)


@pytest.mark.parametrize(
    ("rank", "told"), [(0, "1 of 2 processes did not connect: rank 1"), (1, "rank 0 at 127.0.0.1:")]
)
def test_a_missing_process_is_named(ranks: Callable[..., Ranks], rank: int, told: str) -> None:
    run = ranks("waits_for_nobody", only=(rank,))
    assert run.end(rank) == watchdog.LOST
    assert told in run.said(rank)
