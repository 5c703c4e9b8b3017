"""Reports a start that takes long: on stderr, and to the service manager, which ends one that it hears nothing of.

A thread does so, as the event loop may be busy with the step. It imports nothing large: at first, loading the program
is the step.
"""

from __future__ import annotations

import _thread
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from relay_tornado import sd_notify
from relay_tornado.sd_notify import in_journal
from relay_tornado.steps import Step, Steps

SLOW_START = "start_takes_long"
"""The event in the log."""

SLOW = 5.0
"""Seconds of a step after which it is told; then after twice as many, and so on, at most `_SELDOM` apart."""
_SELDOM = 300.0

EXTENSION = 300.0
"""Seconds by which each sign of progress puts off the service manager's time-out."""

_LOOK = 10.0
"""Seconds between two looks for progress."""

_BUSY = 0.05
"""Seconds of processor time between two looks that count as progress. A relay that waits for something uses 0.01."""
_MANY = 64
"""Blocks of 512 bytes that were read from a disk and written between two looks that count as progress. A line in a log
file is fewer."""

_TICK = 0.5

Say = Callable[[Step, int, int | None], object]
Tell = Callable[[str], object]


@contextmanager
def reported(steps: Steps, say: Say, tell: Tell) -> Iterator[None]:
    """While the block runs, calls `say` with a step that takes long, for how many seconds it has, and how many percent
    of it are done (None: unknown); and `tell` with lines of sd_notify(3). Neither may raise."""
    watch = _Watch(steps, say, tell)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # the thread inherits the mask
    with suppress(RuntimeError, MemoryError):  # no thread can be started
        _thread.start_new_thread(watch.run, ())
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield
    finally:
        watch.end()


@contextmanager
def loading_reported() -> Iterator[None]:
    """Reports that loading the program takes long, in the form of the log, which is not there yet: as JSON, unless
    stderr is a terminal."""
    address, form = os.environ.get("NOTIFY_SOCKET", ""), os.environ.get("RELAY_LOG_FORMAT", "")
    console = form == "console" or (form != "json" and os.isatty(2))
    level = "<4>" if in_journal(sys.stderr) else ""

    def say(step: Step, seconds: int, _: int | None) -> None:
        at = datetime.fromtimestamp(time.time(), UTC).isoformat().replace("+00:00", "Z")
        told = {"step": step.name, "seconds": seconds, "event": SLOW_START, "level": "warning", "timestamp": at}
        line = f"relay: the start takes long: {step.name}, for {seconds} s" if console else json.dumps(told)
        with suppress(OSError):
            os.write(2, f"{level}{line}\n".encode())

    def tell(state: str) -> None:
        with suppress(OSError):
            sd_notify.send(address, state)

    with reported(Steps("loading the program"), say, tell):
        yield


class _Watch:
    def __init__(self, steps: Steps, say: Say, tell: Tell) -> None:
        self._steps = steps
        self._say = say
        self._tell = tell
        self._ended = False
        self._telling = threading.Lock()
        self._known = steps.now
        self._since = self._known.since
        self._next = SLOW
        self._used = (-1.0, 0)  # the first look finds progress

    def end(self) -> None:
        """Nothing is told any more."""
        self._ended = True
        with self._telling:
            pass

    def run(self) -> None:
        look = time.monotonic()
        while True:
            with self._telling:
                if self._ended:
                    return
                now = time.monotonic()
                if now >= look:
                    look = now + _LOOK
                    if self._goes_on():
                        self._tell(f"EXTEND_TIMEOUT_USEC={int(EXTENSION * 1e6)}")
                self._tell_of_step(now)
            time.sleep(_TICK)

    def _tell_of_step(self, now: float) -> None:
        step = self._steps.now
        if step.since != self._since:
            self._since, self._next = step.since, SLOW
        took = now - step.since
        if took < self._next:
            return
        self._next = took + min(took, _SELDOM)
        percent = step.done * 100 // step.total if step.total else None
        share = "" if percent is None else f", {percent} %"
        self._tell(f"STATUS=starting: {step.name} ({took:.0f} s{share})")
        self._say(step, int(took), percent)

    def _goes_on(self) -> bool:
        """Whether there was progress since the last look: another step, more of it, processor time, or blocks of a
        disk."""
        step, used = self._steps.now, _usage()
        seconds, blocks = (now - before for now, before in zip(used, self._used, strict=True))
        went_on = step != self._known or seconds >= _BUSY or blocks >= _MANY
        self._known, self._used = step, used
        return went_on


def _usage() -> tuple[float, int]:
    """Seconds of processor time of the other threads, and blocks that were read and written."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.process_time() - time.thread_time(), used.ru_inblock + used.ru_oublock
