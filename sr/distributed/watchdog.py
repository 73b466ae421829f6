"""Signs of life between the processes of a run: when one is gone, the others say which, and end.

A broken exchange of gradients names nobody, and on a cut link TCP waits for hours. So a thread in every process passes
a sign to rank 0 every few seconds and gets one back, and rank 0 tells all what it noticed; a thousand processes cost it
a thousand connections and some hundred lines a second. Whatever the main thread waits for is bounded by this, however
long it may take: shards that rank 0 makes are waited for as long as rank 0 lives.

A line is a kind, an exit code and a text: "" a sign of life, "bye" an orderly end, "said 2 TEXT" last words, and from
rank 0 "told 2 TEXT" (somebody's last words) or "gone 75 TEXT". Who ends because of another takes its code: a scheduler
must not try a mistake again because its neighbours were in order. What no thread can end is a process that is stopped
as a whole: the others say so and end, and their scheduler has to clear its machine.
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

LOST = 75  # exit code EX_TEMPFAIL: another process is gone; nothing is wrong with what was asked
FIRST_STEP_FACTOR = 10  # compilation takes minutes, and one rank may have finished while another compiles
GRACE_SECONDS = 10.0  # for processes that fail alike, to say so themselves
SAVING_SECONDS = 60.0  # for a checkpoint on its way to the disk
_leaving = threading.Lock()


class Watchdog:
    """Meets all processes, then watches them from a thread that ends this process when one of them is gone.

    timeout: seconds that a step may take; a process silent for half of it is gone. place: where the run is.
    resume: called when it ends, from where it will continue ("" if not known); may read a disk that is gone too.
    """

    def __init__(self, *, rank: int, world: int, timeout: float) -> None:
        self.rank, self.world, self.timeout = rank, world, timeout
        self.interval, self.patience = min(5.0, timeout / 20), timeout / 2
        self.place = "before the first step"
        self.resume: Callable[[], str] = str
        self._meeting = Rendezvous(rank=rank, world=world)
        self._peers: dict[int, Peer] = {}
        self._selector = selectors.DefaultSelector()
        self._verdict, self._kind, self.code, self._known = "", "", LOST, threading.Event()
        self._met, self._over, self._first = threading.Event(), False, False
        self._deadline, self._late = time.monotonic() + rendezvous.MEETING_SECONDS, self._meeting.missing
        self._parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def meet(self) -> None:
        """Wait for all processes of the launch. Past MEETING_SECONDS this one ends and names who did not come."""
        threading.Thread(target=self._run, name="pulse", daemon=True).start()
        try:
            self._meeting.hold()
        except RuntimeError as error:
            reason = first_line(error)
            leave(f"the store of the launcher failed ({reason}); start the same command again on every machine", LOST)
        self._deadline, self._late = math.inf, self._stuck
        self._met.set()

    # ---- the watch ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not (self._met.wait(min(1.0, self.interval)) or self._verdict):
                self._judge_self(time.monotonic())
            self._peers = self._meeting.peers if self._met.is_set() else {}
            for peer in self._peers.values():
                peer.link.setblocking(False)
                peer.heard = time.monotonic()
                self._selector.register(peer.link, selectors.EVENT_READ, peer)
            beat = 0.0
            while not (self._over or self._verdict):
                faulthandler.dump_traceback_later(self.timeout, exit=True)  # for a main thread that keeps the GIL
                self._listen(self.interval)
                now = time.monotonic()
                if now >= beat:
                    for peer in self._peers.values():
                        peer.send("")
                    beat = now + self.interval
                self._judge_others(now)
                self._judge_self(now)
            faulthandler.cancel_dump_traceback_later()
            if self._verdict:
                self._end()
        except Exception:  # without this thread the others would wait for the patience to end
            traceback.print_exc()
            leave("the watch over the other processes failed; please report the lines above", 70)

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
        if kind == "said":
            self._judge("told", f"{peer.name} ended: {text}", int(code))
        elif kind in ("told", "gone"):
            self._judge(kind, text, int(code))

    def _judge_others(self, now: float) -> None:
        """Is another gone?"""
        if any(peer.closed for peer in self._peers.values()):
            time.sleep(0.2)  # those that went with it: the rest of its machine
            self._listen(0)
            self._judge("gone", _names([peer for peer in self._peers.values() if peer.closed], "connection closed"))
        elif any(now - peer.heard > self.patience for peer in self._peers.values()):
            silent = [peer for peer in self._peers.values() if now - peer.heard > self.patience - 2 * self.interval]
            self._judge("gone", _names(silent, f"no sign of life for {self.patience:.3g} s"))

    def _judge_self(self, now: float) -> None:
        """Is the launcher gone, or does something take too long?"""
        if self._parent is not None and os.getppid() != self._parent:
            self._judge("said", "the launcher of this process is gone")
        elif now > self._deadline:
            self._judge("said", self._late())

    def _judge(self, kind: str, verdict: str, code: int = LOST) -> None:
        """The reason to end, the first one; how the others are to hear of it."""
        if not self._verdict:
            self._kind, self.code, self._verdict = kind, code, verdict

    def _end(self) -> None:
        for peer in self._peers.values() if self.rank == 0 or self._kind == "said" else ():
            peer.send(f"{self._kind} {self.code} {self._verdict}")
        self._known.set()
        if self._kind == "told":
            time.sleep(GRACE_SECONDS)
            if self._over:
                return
        print(file=sys.stderr)  # the main thread may have left a progress bar on the line
        if self._met.is_set() and time.monotonic() > self._deadline - self.timeout / 2:
            faulthandler.dump_traceback(sys.__stderr__ or 2)  # it hangs, perhaps for its own reasons
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
        """Who is gone, when something failed that others take part in; None where all live on."""
        self._known.wait(max(3.0, 2 * self.interval))
        return self._verdict or None

    def sentence(self, what: str) -> str:
        """`what` happened, where, and what to do now; of a mistake its own words say that."""
        if self.code != LOST:
            return f"{self.place}, {what}"
        found: list[str] = []
        asking = threading.Thread(target=lambda: found.append(self.resume()), daemon=True)
        asking.start()
        asking.join(2)
        where = "".join(found) or "the newest checkpoint"
        return f"{what}, {self.place}; start the same command again on every machine: it continues from {where}"

    def last_words(self, message: str, code: int) -> None:
        """Tell the others why this process ends, and how, and stop watching."""
        self._over = True
        for peer in self._peers.values():
            peer.send(f"said {code} {' '.join(message.split())}")

    def shutdown(self) -> None:
        """This process is done. Nobody is to wait for it any more, nor it for others."""
        self._over = True
        for peer in self._peers.values():
            peer.send("bye")


def leave(message: str, code: int) -> NoReturn:
    """Say why, once, and end this process without clean-up, which may wait for processes that are no more."""
    code = signals.exit_code(code)
    _leaving.acquire()  # for ever: where both threads come here, the second waits for the end
    rank = os.environ.get("RANK", "0")
    print(f"sr: {message}" if rank == "0" else f"sr (rank {rank}): {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    for child in multiprocessing.active_children():
        child.kill()
    for thread in threading.enumerate():
        if not thread.daemon and thread not in (threading.main_thread(), threading.current_thread()):
            thread.join(SAVING_SECONDS)  # what must not be cut short is no daemon
    os._exit(code)


def _names(peers: list[Peer], why: str) -> str:
    more = f" and {len(peers) - 4} more" if peers[4:] else ""
    return f"{', '.join(peer.name for peer in peers[:4])}{more} {'are' if peers[1:] else 'is'} gone ({why})"
