"""`relay listen`: prints the events of buckets as they come, or runs a command for each."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
from click.core import ParameterSource

from relay_tornado.cli import interrupts
from relay_tornado.cli.access import open_access, refuse_with_stock, stock_options
from relay_tornado.cli.common import held
from relay_tornado.cli.conditions import filter_option
from relay_tornado.cli.errors import STDOUT, Failure, about, drop_output
from relay_tornado.cli.options import Lines, Number, Size, options_of, relay_options
from relay_tornado.cli.positions import Position, PositionType
from relay_tornado.cli.printing import Document, note
from relay_tornado.cli.streams import ended_with_reader, is_closed

if TYPE_CHECKING:
    from relay_tornado.client.event import EventData, Notice

_option = options_of("LISTEN")


@click.command()
@click.argument("buckets", nargs=-1, metavar="[BUCKET]...")
@_option("--since", type=PositionType(), help="Where to begin: latest, earliest, an id, last:10, 10m (ago), a time.")
@filter_option(_option)
@_option("--max-body", type=Size(), help="Leave out larger bodies.")
@_option("--outputs/--no-outputs", default=True, help="Each event once per output, or (--no-outputs) once.")
@_option("--checkpoint", type=click.Path(path_type=Path, dir_okay=False), help="File that keeps the position.")
@_option("--max", "most", type=Number(min=1), help="End after this many events.")
@_option("--exec", "command", type=Lines(), help="Run this command for each event, with the body on standard input.")
@_option("--exec-keep-going", is_flag=True, help="If the --exec command fails, continue instead of retrying.")
@_option("--bodies-only", is_flag=True, help="Print only the bodies, as they came.")
@stock_options(_option)
@relay_options
@click.pass_context
def listen(
    context: click.Context,
    buckets: tuple[str, ...],
    since: Position | None,
    rules: Document | None,
    max_body: int | None,
    outputs: bool,
    checkpoint: Path | None,
    most: int | None,
    command: str | None,
    exec_keep_going: bool,
    bodies_only: bool,
    stock: bool,
    key: str | None,
    data: Path,
    as_json: bool,
) -> None:
    """Print the events of the buckets BUCKET (default: all) as they come, until Ctrl-C.

    On a terminal events are formatted for people; elsewhere each is one line of JSON. After the relay was away, the
    command reconnects by itself and misses nothing.
    """
    if (bodies_only or command is not None) and context.get_parameter_source("as_json") is ParameterSource.ENVIRONMENT:
        as_json = False  # RELAY_JSON is for every command
    if sum((bodies_only, as_json, command is not None)) > 1:
        raise click.UsageError("--json, --bodies-only and --exec each say what becomes of an event: name one of them")
    if command is not None and not command.strip():
        raise click.UsageError("--exec names no command: is the variable set that it is taken from?")
    if exec_keep_going and command is None:
        raise click.UsageError("--exec-keep-going is about --exec: name a command, or leave it out")
    if stock:
        no_outputs = None if outputs else True
        refuse_with_stock({"--since": since, "--filter": rules, "--max-body": max_body, "--no-outputs": no_outputs})
    handle = _handler(as_json, bodies_only, command, exec_keep_going)

    from relay_tornado.client import sync
    from relay_tornado.client.errors import RelayClientError

    in_use = f"uses the checkpoint {checkpoint}: stop it, or name another file"
    with (
        _ended_by_signals(),
        ended_with_reader(),
        nullcontext() if checkpoint is None else held(checkpoint, in_use),
        open_access(data, "relay listen", buckets, key) as access,
    ):
        if outputs:
            for each in access.silent:
                note(each if stock else f"{each}; --no-outputs prints every event")
        try:
            subscription = sync.subscribe(
                access.url,
                access.key,
                access.secret,
                buckets=buckets,
                checkpoint=checkpoint,
                since=None if since is None else since.since,
                filter=rules,
                max_body=max_body,
                outputs="all" if outputs else "none",
                extended=not stock,
                on_gap=None if stock else lambda gap: note(str(gap)),
                on_notice=_Notices(quiet=not sys.stderr.isatty()),
            )
            with subscription as events:
                for count, event in enumerate(events, 1):
                    handle(event)
                    if count == most:
                        event.done()
                        break
        except RelayClientError as error:
            raise Failure(str(error)) from error


def _handler(as_json: bool, bodies_only: bool, command: str | None, keep_going: bool) -> Callable[[EventData], None]:
    """Returns the function that handles each event."""
    if command is not None:
        from relay_tornado.cli.listen_exec import run_until_done

        return partial(run_until_done, command, keep_going)
    from relay_tornado.cli.showing import ForPeople, show_body, show_line

    if is_closed("stdout"):
        raise Failure(f"{STDOUT} is closed, so nobody would see the events: name a file, or a command with --exec")
    if bodies_only:
        return _printed(show_body)
    return _printed(ForPeople() if sys.stdout.isatty() and not as_json else show_line)


def _printed(show: Callable[[EventData], None]) -> Callable[[EventData], None]:
    """Wraps `show`: if the reader of the output has left, ends the command in order."""

    def handle(event: EventData) -> None:
        try:
            with about(STDOUT):
                show(event)
        except BrokenPipeError:
            drop_output()
            raise SystemExit(0) from None

    return handle


class _Notices:
    """Notes on stderr what happens to the connection; with `quiet` only problems, and that they are over."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._away = False

    def __call__(self, notice: Notice) -> None:
        if notice.kind == "disconnected":
            self._away = True
            note(f"{notice.message}; trying again in {notice.delay:.1f} s")
        elif notice.kind == "connected":
            if self._away or not self._quiet:
                note("connected again" if self._away else "connected; waiting for events")
            self._away = False
        elif notice.kind != "caught_up":
            note(notice.message)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Lets SIGTERM end the command in order, with exit code 0, and SIGHUP with 129."""

    def end(number: int, *_: object) -> NoReturn:
        # A closed terminal often sends it twice, and the second one would interrupt the end.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise SystemExit(0 if number == signal.SIGTERM else 128 + number)

    before = {each: signal.signal(each, end) for each in interrupts.stops()}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
