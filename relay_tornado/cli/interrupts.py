"""What Ctrl-C, SIGTERM and SIGHUP do to a command: while it is being loaded, and while it works."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType


def end_silently() -> None:
    """Until `raise_again`, Ctrl-C ends the process at once, by the signal, without Python's traceback: there is nothing
    to tidy up while the program is being loaded. It does not where it is ignored, or handled otherwise."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _handle(_exit if _is_first() else signal.SIG_DFL)


def raise_again() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, _exit):
        _handle(signal.default_int_handler)


def _is_first() -> bool:
    """Whether this is the first process of a container, which only signals end that it handles."""
    return os.getpid() == 1


def end_by_sigterm() -> None:
    """Has SIGTERM end the process at once, also the first one of a container."""
    if _is_first():
        signal.signal(signal.SIGTERM, _exit)


def unblock() -> None:
    """Has signals arrive also if the parent had blocked them, as supervisors do in their threads: a child inherits
    that."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _exit(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def _handle(handler: signal._HANDLER) -> None:
    with suppress(ValueError):  # not in the main thread, which alone is interrupted
        signal.signal(signal.SIGINT, handler)


_number = signal.SIGINT
"""The signal that stopped the command."""


def exit_code() -> int:
    """That of a command that was stopped: 130 by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP, as a shell reports them."""
    return 128 + _number


@contextmanager
def tidying_up(left: Callable[[], str]) -> Iterator[None]:
    """In the block, and from then on, SIGTERM and SIGHUP do what Ctrl-C does, so that unfinished files are removed. If
    one of them stops the block, `left` says in a few words what is there then, for the message."""
    handle_stops()
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(left()) from error


def handle_stops() -> None:
    """Has SIGTERM and SIGHUP do what Ctrl-C does."""
    for number in stops():
        signal.signal(number, _interrupt)


def stops() -> Sequence[signal.Signals]:
    """The signals that stop a command besides Ctrl-C: SIGTERM, and that of a closed terminal, SIGHUP, unless it is
    ignored, as with `nohup`."""
    heard = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGHUP) if heard else (signal.SIGTERM,)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _number
    _number = signal.Signals(number)
    handler = signal.getsignal(signal.SIGINT)  # while an event loop runs, that of asyncio
    (handler if callable(handler) else signal.default_int_handler)(number, frame)


def end_at_once(words: str) -> None:
    """Has Ctrl-C, SIGTERM and SIGHUP end the process at once, with these words on stderr. For a command that has
    nothing to tidy up, and long statements of SQLite, during which no handler runs."""
    ends = (signal.SIG_DFL, signal.default_int_handler, _exit)  # not one that is ignored, or handled otherwise
    numbers = [each for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) in ends]
    if not numbers:
        return

    def wait() -> None:
        number = signal.sigwait(numbers)
        try:
            os.write(2, f"relay: {words}\n".encode())
        finally:
            os._exit(128 + number)

    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    threading.Thread(target=wait, name="signals", daemon=True).start()
