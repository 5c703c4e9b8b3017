"""Prints what commands say: one JSON document, aligned lines or a table on stdout; notes on stderr.

Each is written at once: a reader like `grep -q` leaves after the first line that it looks for, and the next write would
fail.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import click

from relay_tornado.cli.options import format_duration, format_size
from relay_tornado.model import counted, printable

Document = dict[str, Any]

_PROSE: Final = 24
"""The least width of a column, in characters, in which broken lines of words are readable."""


def print_json(value: Any) -> None:
    """Prints one document on stdout, in ASCII, which every terminal and locale can show."""
    click.echo(json.dumps(value, indent=2))


def print_answer(answer: Any, words: str, as_json: bool) -> None:
    """Prints an answer as one document, or `words` in place of it."""
    if as_json:
        print_json(answer)
    else:
        click.echo(printable(words))


def note(text: str) -> None:
    """Prints a line on stderr. If that fails, as on a full disk, the command goes on."""
    with suppress(OSError):
        click.echo(f"relay: {printable(text)}", err=True)


def print_fields(pairs: Iterable[tuple[str, str | None]]) -> None:
    """Prints aligned lines `name  value` on stdout, without those whose value is None."""
    rows = [(name, value) for name, value in pairs if value is not None]
    width = max(len(name) for name, _ in rows)
    click.echo("\n".join(f"{name:<{width}}  {printable(value)}".rstrip() for name, value in rows))


def print_table(rows: Iterable[Mapping[str, str]]) -> None:
    """Prints a table on stdout from rows of values by column; nothing if there are no rows. Ids and URLs are never
    broken, so that they can be copied: on a terminal the last column is wrapped between words. If the terminal is too
    narrow for that, or stdout is no terminal, each row is one line."""
    from rich.cells import cell_len

    cells = [{column: printable(cell) for column, cell in row.items()} for row in rows]
    if not cells:
        return
    lines = [list(cells[0]), *(list(row.values()) for row in cells)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    if sys.stdout.isatty():
        _print_drawn(lines, widths)
        return
    click.echo("\n".join(_aligned(line, widths) for line in lines))


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    from rich.cells import cell_len

    padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def _print_drawn(lines: Sequence[Sequence[str]], widths: Sequence[int]) -> None:
    """Draws the table without rich, whose own table takes a millisecond per row of possibly thousands."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    *before, last = widths
    room = console.width - sum(before) - 2 * len(before)
    words = max(cell_len(word) for line in lines for word in ["", *line[-1].split()])
    if room >= min(last, max(_PROSE, words)):
        last = min(last, room)
    widths = [*before, last]
    with console.capture() as capture:
        # As Text, so that markup in what users and senders wrote has no effect.
        console.print(Text(_aligned(lines[0], widths), "bold"), soft_wrap=True, end="")
    click.echo(capture.get())
    click.echo(("-" if console.options.ascii_only else "─") * min(sum(widths) + 2 * len(before), console.width))
    for *cells, text in lines[1:]:
        parts = [text] if cell_len(text) <= last else [each.plain for each in Text(text).wrap(console, last)]
        for part in parts:
            click.echo(_aligned([*cells, part], widths))
            cells = [""] * len(before)


def print_list(found: Sequence[Any], rows: Iterable[Mapping[str, str]], nothing: str, as_json: bool) -> None:
    """Prints what was found as one document, or as a table with these rows; if it is nothing, prints the note
    `nothing`."""
    if as_json:
        print_json(found)
    elif not found:
        note(nothing)
    else:
        print_table(rows)


def print_page(page: Document, rows: Iterable[Mapping[str, str]], nothing: str, as_json: bool) -> None:
    """Like `print_list`, for a page; if there is more, a note says how to continue."""
    if as_json:
        print_json(page)
        return
    more = page.get("next_cursor")
    print_list(page["data"], rows, nothing if more is None else f"{nothing} so far", as_json)
    if more is not None:
        note(f"there is more: go on with --cursor {more}")


def size_words(size: float) -> str:
    """`1.3 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def exact_size(size: int) -> str:
    """`10GiB`, as options take it; without a unit `1500 bytes`."""
    text = format_size(size)
    return counted(size, "byte") if text.isdigit() else text


def when(time: float | None, *, seconds: bool = False) -> str:
    """A unix time as date and time, to the minute or second. A damaged one may be in no calendar."""
    form = "%Y-%m-%d %H:%M:%S UTC" if seconds else "%Y-%m-%d %H:%M UTC"
    try:
        return "never" if time is None else datetime.fromtimestamp(time, UTC).strftime(form)
    except (OverflowError, ValueError, OSError):
        return "no date"


def webhook_url(base: str | None, input_id: str) -> str:
    """The URL of an input for senders; only the path if `base` is None (not known)."""
    return f"{base or ''}/v1/webhooks/{input_id}"


def socket_url(base: str | None) -> str:
    """The URL to which clients connect."""
    return "/v1/socket" if base is None else f"ws{base.removeprefix('http')}/v1/socket"


def retention_words(keep: Document) -> str:
    """`30d, 10GiB`."""
    words = []
    if keep["max_age"] is not None:
        words.append(format_duration(keep["max_age"]))
    if keep["max_events"] is not None:
        words.append(counted(keep["max_events"], "event"))
    if keep["max_bytes"] is not None:
        words.append(exact_size(keep["max_bytes"]))
    if words and keep.get("wait_for_consumers"):
        hard = keep.get("hard_max_bytes")
        words.append("waits for consumers" + ("" if hard is None else f" up to {exact_size(hard)}"))
    return ", ".join(words) or "everything is kept"


def dedupe_words(dedupe: Document | None) -> str:
    return "off" if dedupe is None else f"{dedupe['header']} within {format_duration(dedupe['window'])}"


def rate_words(limit: Document) -> str:
    """`100 events in 1s`."""
    return f"{counted(limit['events'], 'event')} in {format_duration(limit['interval'])}"


def auth_words(auth: Document) -> str:
    """The type, and the user's name; only --json shows the secrets."""
    return f"basic, user {auth['username']}" if auth["type"] == "basic" else str(auth["type"])


def own_answer(inputs: list[str]) -> str:
    """What changes for the inputs of these names if the output is deleted from which they have their answers."""
    return f"senders of {', '.join(map(repr, inputs))} get the input's own answer then"
