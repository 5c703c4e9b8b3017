"""Prints events for `relay listen`: for people on a terminal, as a line of JSON, or as the body alone."""

from __future__ import annotations

import base64
import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Final

from relay_tornado.cli.printing import Document, size_words
from relay_tornado.model import printable

if TYPE_CHECKING:
    from relay_tornado.client.event import EventData

LINES: Final = 60
"""The most lines of a body that are shown on a terminal."""
WIDTH: Final = 2_000
"""The most characters of such a line."""

_INDENTING: Final = json.JSONEncoder(ensure_ascii=False, indent=2)


def document(event: EventData) -> Document:
    """An event as data for a line of JSON."""
    shown: Document = {
        "id": event.id,
        "bucket": event.bucket,
        "bucket_id": event.bucket_id,
        "seq": event.seq,
        "epoch": event.epoch,
        "received_at": event.received_at,
        "input": event.input_name,
        "output": event.output,
        "destination": event.destination,
        "method": event.method,
        "path": event.path,
        "query": event.query,
        "headers": event.headers.lists(),
        "host": event.host,
        "remote_ip": event.remote_ip,
        "verified": event.verified,
        "attempt": event.attempt,
    }
    if event.truncated:
        return shown | {"truncated": True}
    try:
        return shown | {"body": event.body.decode()}
    except UnicodeDecodeError:
        return shown | {"body_base64": base64.b64encode(event.body).decode()}


def show_line(event: EventData) -> None:
    """Prints an event as one line of JSON, in ASCII."""
    sys.stdout.write(json.dumps(document(event), separators=(",", ":")) + "\n")
    sys.stdout.flush()


def show_body(event: EventData) -> None:
    """Prints the exact bytes of the body, and a line end."""
    sys.stdout.flush()
    sys.stdout.buffer.write(event.body + b"\n")
    sys.stdout.buffer.flush()


def _clock(time: float | None) -> str:
    """The local time of day. A damaged time may be in no calendar."""
    try:
        return "" if time is None else datetime.fromtimestamp(time).strftime("%H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "no date"


class ForPeople:
    """Prints a line about the event, its headers, and its body (JSON indented). No content can control the terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, soft_wrap=True)

    def __call__(self, event: EventData) -> None:
        from rich.text import Text

        # As Text, so that markup in what senders wrote has no effect.
        target = f"{event.path}{'?' if event.query else ''}{event.query}" or "/"
        head = Text.assemble(
            (f"{_clock(event.received_at)} ", "dim"),
            (f"{printable(event.bucket)} ", "cyan"),
            (f"{printable(event.method)} ", "bold green"),
            (printable(target), "bold"),
            (f"  {size_words(len(event.body))}", "dim"),
            (f"  {printable(event.id)}", "dim"),
        )
        if event.output:
            head.append(f"  for {printable(event.output)}", "dim")
        if event.attempt > 1:
            head.append(f"  try {event.attempt}", "yellow")
        if event.verified is not None:
            head.append(
                "  verified" if event.verified else "  BAD SIGNATURE", "green" if event.verified else "bold red"
            )
        rows = [head]
        rows += [Text(f"  {printable(name)}: {printable(value)}", "dim") for name, value in event.headers.pairs()]
        rows += [Text(f"  {line}") for line in _body(event)]
        self._console.print(*rows, sep="\n", end="\n\n")


def _body(event: EventData) -> list[str]:
    if event.truncated:
        return ["(the body was left out: it is over --max-body)"]
    if not event.body:
        return []
    try:
        text = event.body.decode()
    except UnicodeDecodeError:
        return [f"({size_words(len(event.body))} that are no text)"]
    try:
        lines, count = _indented(text)
    except (ValueError, RecursionError):
        lines = text.splitlines()
        count = len(lines)
    shown = [
        printable(line[:WIDTH].replace("\t", "    ")) + ("…" if len(line) > WIDTH else "") for line in lines[:LINES]
    ]
    return shown + ([f"… {count - LINES} more lines"] if count > LINES else [])


def _indented(text: str) -> tuple[list[str], int]:
    """Formats JSON with each value on a line of its own. Returns the lines to show, and the number of all lines, which
    may be a thousand times as long as the text. Raises ValueError or RecursionError."""
    begun: list[str] = []
    breaks = 0
    for piece in _INDENTING.iterencode(json.loads(text)):
        if breaks < LINES:
            begun.append(piece)
        breaks += piece.count("\n")
    return "".join(begun).split("\n"), breaks + 1
