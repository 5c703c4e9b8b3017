"""`relay listen --exec`: runs a shell command for each event in order, with the body on its standard input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from relay_tornado.cli import interrupts
from relay_tornado.cli.printing import note

if TYPE_CHECKING:
    from relay_tornado.client.event import EventData

_SECRETS: Final = ("RELAY_SECRET", "RELAY_SECRET_FILE")
_LONGEST: Final = 128 * 1024 - 64
"""The most bytes of a variable that the kernel accepts, with its name."""
_LONGEST_DELAY: Final = 60.0
"""The longest delay between two tries of an event, in seconds. The first is one second, and each doubles."""
_PATIENCE: Final = 5.0
"""Seconds until a command that does not end after SIGTERM is killed."""


def variables(event: EventData) -> dict[str, str]:
    """The event as environment variables: RELAY_EVENT_…, and RELAY_HEADER_<NAME> for each header."""
    told = {
        "RELAY_EVENT_ID": event.id,
        "RELAY_EVENT_SEQ": str(event.seq),
        "RELAY_EVENT_BUCKET": event.bucket,
        "RELAY_EVENT_BUCKET_ID": event.bucket_id,
        "RELAY_EVENT_INPUT": event.input_name,
        "RELAY_EVENT_OUTPUT": event.output,
        "RELAY_EVENT_DESTINATION": event.destination,
        "RELAY_EVENT_METHOD": event.method,
        "RELAY_EVENT_PATH": event.path,
        "RELAY_EVENT_QUERY": event.query,
        "RELAY_EVENT_RECEIVED_AT": "" if event.received_at is None else f"{event.received_at:.6f}",
        "RELAY_EVENT_ATTEMPT": str(event.attempt),
        "RELAY_EVENT_VERIFIED": "" if event.verified is None else str(event.verified).lower(),
        "RELAY_EVENT_REMOTE_IP": event.remote_ip,
        "RELAY_EVENT_HEADERS": json.dumps(event.headers.lists()),
    }
    for name in event.headers:
        told["RELAY_HEADER_" + re.sub(r"[^A-Z0-9]", "_", name.upper())] = ", ".join(event.headers.get_all(name))
    # A variable can't contain NUL.
    return {name: value.replace("\0", "")[:_LONGEST] for name, value in told.items()}


def run(command: str, event: EventData, environment: Mapping[str, str]) -> int:
    """Runs the command by `sh -c`. Returns its exit status, negative for a signal. Raises OSError."""
    inherited = {name: value for name, value in environment.items() if name not in _SECRETS}
    process = None
    try:
        with _signals_after():
            process = subprocess.Popen(  # noqa: S603  # the user's own command
                ["/bin/sh", "-c", command],
                stdin=subprocess.PIPE,
                env=inherited | variables(event),
                bufsize=0,
                # A process group of its own, so that the shell's children are ended with it.
                start_new_session=True,
            )
        process.communicate(event.body)
    except BaseException:
        if process is not None:
            _end(process)
        raise
    return process.returncode


@contextmanager
def _signals_after() -> Iterator[None]:
    """Delays the signals that end this process until after the block: during a start, the child is not known yet."""
    came: list[int] = []
    handled = [number for number in (signal.SIGINT, *interrupts.stops()) if callable(signal.getsignal(number))]
    before = [signal.signal(number, lambda number, _: came.append(number)) for number in handled]
    try:
        yield
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)
        for each in came:
            signal.raise_signal(each)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_until_done(command: str, keep_going: bool, event: EventData) -> None:
    """Runs the command for an event until its exit status is 0, or once if `keep_going`."""
    delay = 1.0
    while True:
        try:
            status = run(command, event, os.environ)
            said = f"exit status {status}" if status >= 0 else f"signal {-status}"
        except OSError as error:
            status, said = -1, f"it can't be run ({error.strerror})"
        if status == 0:
            return
        if keep_going:
            note(f"{event.id}: {said}; going on")
            return
        note(f"{event.id}: {said}; again in {delay:.1f} s")
        # Without jitter: the command is local, and no others retry at the same time.
        time.sleep(delay)
        delay = min(2 * delay, _LONGEST_DELAY)
