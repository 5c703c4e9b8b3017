"""What Ctrl-C does while the program is being loaded: Python's own answer would be a traceback."""

from __future__ import annotations

import signal
from contextlib import suppress


def end_silently() -> None:
    """Until `raise_again`, Ctrl-C ends the process at once, by the signal: there is nothing to tidy up yet. It does not
    where it is ignored, as behind `nohup`, or handled otherwise."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _handle(signal.SIG_DFL)


def raise_again() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        _handle(signal.default_int_handler)


def _handle(handler: signal._HANDLER) -> None:
    with suppress(ValueError):  # not in the main thread, which alone is interrupted
        signal.signal(signal.SIGINT, handler)
