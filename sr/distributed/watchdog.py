"""Heartbeats between the processes of a run: when one is lost, the others name it and end.

A failed gradient exchange does not name the lost process, and on a cut link TCP waits for hours. Therefore a thread in
every process exchanges a heartbeat with rank 0 every few seconds, and rank 0 reports failures to all. A thousand
processes cost rank 0 a thousand connections and a few hundred lines per second. This bounds every wait of the main
thread: while rank 0 makes shards, the others wait as long as rank 0 runs.

A line holds a kind, an exit code and a text: "" is a heartbeat, "bye" an orderly end, "error 2 TEXT" a final error
message; from rank 0, "peer_error 2 TEXT" is the error message of another process and "lost 75 TEXT" a lost process. A
process that ends because of another uses its exit code: a scheduler must not retry a user's mistake because other
processes were healthy. A process that is stopped as a whole (SIGSTOP) cannot end itself; the others report it and end,
and the scheduler has to clean up its machine.
"""

import faulthandler
import math
import multiprocessing
import os
import selectors
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from sr.core import signals
from sr.core.errors import first_line
from sr.distributed import rendezvous
from sr.distributed.rendezvous import Peer, Rendezvous

LOST = 75  # exit code EX_TEMPFAIL: a process or a server was lost; the command itself is correct
FIRST_STEP_FACTOR = 10  # compilation takes minutes, and one rank may have finished while another compiles
GRACE_SECONDS = 10.0  # for processes that fail the same way to report it themselves
SAVING_SECONDS = 60.0  # for a checkpoint that is being written
_leaving = threading.Lock()


class Watchdog:
    """Connects all processes, then watches them from a thread that ends this process when one of them is lost.

    timeout: seconds that a step may take; a process without a heartbeat for half of it counts as lost. place: where the
    run is, for messages. resume: returns the place from which the run resumes, "" if unknown; called at the end, when
    the disk may be lost too.
    """

    def __init__(self, *, rank: int, world: int, timeout: float) -> None:
        self.rank, self.world, self.timeout = rank, world, timeout
        self.interval, self.patience = min(5.0, timeout / 20), timeout / 2
        self.place = "before the first step"
        self.resume: Callable[[], str] = str
        self._rendezvous = Rendezvous(rank=rank, world=world)
        self._peers: dict[int, Peer] = {}
        self._selector = selectors.DefaultSelector()
        self._verdict, self._kind, self.code, self._known = "", "", LOST, threading.Event()
        self._met, self._over, self._first = threading.Event(), False, False
        self._deadline, self._late = time.monotonic() + rendezvous.RENDEZVOUS_SECONDS, self._rendezvous.missing
        self._parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def meet(self) -> None:
        """Wait for all processes of the launch. After RENDEZVOUS_SECONDS, end and name those that did not connect."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()
        try:
            self._rendezvous.wait()
        except RuntimeError as error:
            reason = first_line(error)
            leave(f"the store of the launcher failed ({reason}); start the same command again on every machine", LOST)
        self._deadline, self._late = math.inf, self._stuck
        self._met.set()

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not (self._met.wait(min(1.0, self.interval)) or self._verdict):
                self._check_self(time.monotonic())
            self._peers = self._rendezvous.peers if self._met.is_set() else {}
            for peer in self._peers.values():
                peer.link.setblocking(False)
                peer.heard = time.monotonic()
                self._selector.register(peer.link, selectors.EVENT_READ, peer)
            beat = 0.0
            while not (self._over or self._verdict):
                faulthandler.dump_traceback_later(self.timeout, exit=True)  # if the main thread holds the GIL
                self._listen(self.interval)
                now = time.monotonic()
                if now >= beat:
                    for peer in self._peers.values():
                        peer.send("")
                    beat = now + self.interval
                self._check_others(now)
                self._check_self(now)
            faulthandler.cancel_dump_traceback_later()
            if self._verdict:
                self._end()
        except Exception:  # without this thread, the others would wait until `patience` is over
            traceback.print_exc()
            leave("internal error in the watchdog of sr; please report the lines above", 70)

    def _listen(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            peer: Peer = key.data
            try:
                data = peer.link.recv(1 << 16)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                peer.closed = True
                self._selector.unregister(peer.link)
                continue
            peer.heard = time.monotonic()
            *lines, peer.rest = (peer.rest + data).split(b"\n")
            for line in lines:
                self._take(peer, line.decode(errors="replace"))

    def _take(self, peer: Peer, line: str) -> None:
        kind, _, text = line.partition(" ")
        if kind == "bye":
            self._selector.unregister(peer.link)
            self._peers = {rank: other for rank, other in self._peers.items() if other is not peer}
        code, _, text = text.partition(" ")
        if kind == "error":
            self._decide("peer_error", f"{peer.name} ended: {text}", int(code))
        elif kind in ("peer_error", "lost"):
            self._decide(kind, text, int(code))

    def _check_others(self, now: float) -> None:
        """Decide to end where another process is lost."""
        if any(peer.closed for peer in self._peers.values()):
            time.sleep(0.2)  # for other processes of the same machine
            self._listen(0)
            self._decide("lost", _names([peer for peer in self._peers.values() if peer.closed], "connection closed"))
        elif any(now - peer.heard > self.patience for peer in self._peers.values()):
            silent = [peer for peer in self._peers.values() if now - peer.heard > self.patience - 2 * self.interval]
            self._decide("lost", _names(silent, f"no heartbeat for {self.patience:.3g} s"))

    def _check_self(self, now: float) -> None:
        """Decide to end where the launcher has ended or a step takes too long."""
        if self._parent is not None and os.getppid() != self._parent:
            self._decide("error", "the launcher of this process has ended")
        elif now > self._deadline:
            self._decide("error", self._late())

    def _decide(self, kind: str, verdict: str, code: int = LOST) -> None:
        """Keep the first reason to end, and the kind of line that reports it to the others."""
        if not self._verdict:
            self._kind, self.code, self._verdict = kind, code, verdict

    def _end(self) -> None:
        for peer in self._peers.values() if self.rank == 0 or self._kind == "error" else ():
            peer.send(f"{self._kind} {self.code} {self._verdict}")
        self._known.set()
        if self._kind == "peer_error":
            time.sleep(GRACE_SECONDS)
            if self._over:
                return
        print(file=sys.stderr)  # the main thread may have left a progress bar on the line
        if self._met.is_set() and time.monotonic() > self._deadline - self.timeout / 2:
            faulthandler.dump_traceback(sys.__stderr__ or 2)  # this process hangs, perhaps for a reason in this process
        leave(self.sentence(self._verdict), self.code)

    # ---- from the main thread ----------------------------------------------------------------------------------------

    def watch(self, *, first: bool = False) -> None:
        """A step begins that may take `timeout`, or FIRST_STEP_FACTOR times that where it is the first and compiles."""
        self._first = first
        self._deadline = time.monotonic() + self._limit

    def unwatch(self) -> None:
        """The step is over."""
        self._deadline = math.inf

    @property
    def _limit(self) -> float:
        return self.timeout * (FIRST_STEP_FACTOR if self._first else 1)

    def _stuck(self) -> str:
        what = "the first step, compilation included, was not finished" if self._first else "no step was finished"
        return (
            f"{what} in {self._limit:.3g} s (the stack of each thread is above); raise train.timeout if it is only slow"
        )

    def verdict(self) -> str | None:
        """Which process was lost, after a collective failed; None where all processes run."""
        self._known.wait(max(3.0, 2 * self.interval))
        return self._verdict or None

    def sentence(self, what: str) -> str:
        """The final message: `what` happened, where, and what to do; the message of an error states the fix itself."""
        if self._kind == "peer_error":
            return f"{self.place}, {what}"
        found: list[str] = []
        lookup = threading.Thread(target=lambda: found.append(self.resume()), daemon=True)  # the disk may hang
        lookup.start()
        lookup.join(2)
        where = "".join(found) or "the newest checkpoint"
        return f"{what}, {self.place}; start the same command again on every machine: it resumes from {where}"

    def report(self, message: str, code: int) -> None:
        """Send the reason and exit code of this process's end to the others and stop watching."""
        self._over = True
        for peer in self._peers.values():
            peer.send(f"error {code} {' '.join(message.split())}")

    def shutdown(self) -> None:
        """Mark this process as finished: the others do not wait for it any more, and it does not watch them."""
        self._over = True
        for peer in self._peers.values():
            peer.send("bye")


def leave(message: str, code: int) -> NoReturn:
    """Print the reason once and end this process without clean-up, which could wait for processes that have ended."""
    code = signals.exit_code(code)
    _leaving.acquire()  # never released: if both threads come here, the second waits for the exit
    rank = os.environ.get("RANK", "0")
    print(f"sr: {message}" if rank == "0" else f"sr (rank {rank}): {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    for child in multiprocessing.active_children():
        child.kill()
    for thread in threading.enumerate():
        if not thread.daemon and thread not in (threading.main_thread(), threading.current_thread()):
            thread.join(SAVING_SECONDS)  # threads that must finish, such as the saver, are not daemons
    os._exit(code)


def _names(peers: list[Peer], why: str) -> str:
    more = f" and {len(peers) - 4} more" if peers[4:] else ""
    return f"{', '.join(peer.name for peer in peers[:4])}{more} {'were' if peers[1:] else 'was'} lost ({why})"
