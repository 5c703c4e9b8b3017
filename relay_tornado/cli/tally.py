"""Prints what an agent does, for people or as JSON: a line for each event, a status, and totals at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import click

from relay_tornado.agent.agent import Outcome, Verdict
from relay_tornado.agent.request import Request
from relay_tornado.agent.target import Answer, Trouble
from relay_tornado.cli.screen import Screen
from relay_tornado.client.event import Event, Gap, Notice
from relay_tornado.model import printable

_COLOURS: Final[Mapping[Verdict, str]] = {"delivered": "green", "refused": "yellow", "failed": "red"}
_PATIENCE: Final = 8
"""The number of tries of an event after which a note says once how to give an event up."""
_MOST_DROPPED: Final = 100
"""The number of headers that can't be sent of which a note says so: senders choose the names."""


class Tally:
    """Counts and prints outcomes. With `as_json` each line is a JSON object; `endless`: tries have no limit."""

    def __init__(self, screen: Screen, as_json: bool, endless: bool) -> None:
        self.counts: dict[Verdict, int] = {"delivered": 0, "refused": 0, "failed": 0}
        self.missing = 0
        """The number of events in gaps, as far as it is known."""
        self.connection = "connecting"
        """The state of the connection to the relay."""
        self._screen = screen
        self._as_json = as_json
        self._endless = endless
        self._hinted = False
        self._dropped: set[str] = set()
        self._working: dict[str, str] = {}
        self._begun = time.monotonic()

    def retrying(
        self, event: Event, request: Request | None, result: Answer | Trouble, tries: int, wait: float
    ) -> None:
        """Prints the first, second, fourth, eighth … retry, so that a target that is away for a day does not fill the
        screen."""
        reason = reason_of(result)
        self._working[event.id] = f"{reason}, try {tries + 1} in {wait:.0f} s"
        if tries & (tries - 1) == 0:
            if self._as_json:
                fields = {"what": "retrying", **_fields(event, request, result, tries), "wait": round(wait, 3)}
                self._screen.line(json.dumps(fields))
            else:
                words = click.style(f"{reason}; try {tries + 1} in {wait:.1f} s", fg="yellow")
                self._screen.line(f"{_clock()}  {_request(event, request)}  {words}")
        if self._endless and request is not None and tries >= _PATIENCE and not self._hinted:
            self._hinted = True
            self._screen.note(
                f"{event.id} failed {tries} times and is retried without end: no event is passed over. "
                "With --max-tries N an event is given up after N tries"
            )
        self.show()

    def ended(self, event: Event, outcome: Outcome) -> None:
        self._working.pop(event.id, None)
        self.counts[outcome.verdict] += 1
        if self._as_json:
            fields = _fields(event, outcome.request, outcome.result, outcome.tries)
            fields["duration_ms"] = round(outcome.seconds * 1000, 1)
            self._screen.line(json.dumps({"what": outcome.verdict, **fields}))
        else:
            words = click.style(reason_of(outcome.result), fg=_COLOURS[outcome.verdict])
            tries = f"  {outcome.tries} tries" if outcome.tries > 1 else ""
            self._screen.line(
                f"{_clock()}  {_request(event, outcome.request)}  {words}  {outcome.seconds * 1000:.0f} ms{tries}"
            )
        if outcome.request is not None:
            for name in outcome.request.dropped:
                if name not in self._dropped and len(self._dropped) < _MOST_DROPPED:
                    self._dropped.add(name)
                    self._screen.note(f"the header {printable(name[:80])!r} can't be sent, and is left out")
        self.show()

    def gap(self, gap: Gap) -> None:
        """Counts and prints missing events."""
        self.missing += gap.count or 0
        if self._as_json:
            fields: dict[str, Any] = {"what": "gap", "at": round(time.time(), 3), "bucket": gap.bucket}
            fields |= {"from": gap.first, "to": gap.last, "count": gap.count, "reason": gap.reason}
            self._screen.line(json.dumps(fields))
        self._screen.note(str(gap))

    def notice(self, notice: Notice) -> None:
        """Prints what the client reports of its connection."""
        if notice.kind == "connected":
            # Both for the first connection and for a reconnection.
            self._say("connected", "connected to the relay")
        elif notice.kind == "disconnected":
            self._say("the relay is away", f"{notice.message}: reconnecting")
        elif notice.kind in ("missing", "bucket_deleted", "problem"):
            self._screen.note(notice.message)

    def stopping(self, unfinished: int) -> None:
        """Notes that the command was told to stop."""
        if unfinished:
            self._screen.note("stopping once the requests in flight have ended; Ctrl-C again stops at once")

    def _say(self, connection: str, words: str) -> None:
        if self.connection != connection:
            self.connection = connection
            self._screen.note(words)
        self.show()

    def show(self) -> None:
        """Renews the status."""
        if not self._screen.live:
            return
        parts = [self.connection, *(f"{number} {name}" for name, number in self.counts.items() if number)]
        if self._working:
            parts.append(next(iter(self._working.values())))
        self._screen.status("  ".join(parts))

    def close(self, unfinished: int) -> None:
        """Prints the totals; `unfinished` events were begun and are left for the next start."""
        self._screen.status("")
        seconds = time.monotonic() - self._begun
        if self._as_json:
            rest = {"unfinished": unfinished, "missing": self.missing, "seconds": round(seconds, 1)}
            self._screen.line(json.dumps({"what": "totals", **self.counts, **rest}))
        else:
            words = ", ".join(f"{number} {name}" for name, number in self.counts.items())
            if unfinished:
                words += f", {unfinished} not finished"
            if self.missing:
                words += f", {self.missing} missing"
            self._screen.note(f"{words} in {seconds:.0f} s")
        self._screen.close()


def _fields(event: Event, request: Request | None, result: Answer | Trouble, tries: int) -> dict[str, Any]:
    return {
        "at": round(time.time(), 3),
        "id": event.id,
        "bucket": event.bucket,
        "output": event.output,
        "method": event.method,
        "path": event.path if request is None else request.path,
        "status": result.status if isinstance(result, Answer) else None,
        "error": None if isinstance(result, Answer) else result.words,
        "tries": tries,
    }


def reason_of(result: Answer | Trouble) -> str:
    """The status of an answer, or the reason why there was none."""
    return str(result.status) if isinstance(result, Answer) else printable(result.words)


def _request(event: Event, request: Request | None) -> str:
    # Without the query, which may contain secrets.
    return printable(f"{event.method:<6} {event.path or '/' if request is None else request.path}")


def _clock() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
