"""`relay logs …`: lists and shows stored events with their deliveries, and sends them again."""

from __future__ import annotations

import sys
import time
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from operator import getitem
from pathlib import Path
from typing import Any

import click

from relay_tornado.admin.lookup import named
from relay_tornado.cli.answers import left_over
from relay_tornado.cli.client import Caller, open_relay
from relay_tornado.cli.common import Group, header_rows
from relay_tornado.cli.conditions import Condition
from relay_tornado.cli.errors import Failure, unless_seen
from relay_tornado.cli.flags import in_flags
from relay_tornado.cli.lookup import check_sendable
from relay_tornado.cli.options import Decorator, Number, OptionOf, options_of, relay_options, together
from relay_tornado.cli.positions import Past
from relay_tornado.cli.printing import Document, note, print_fields, print_json, print_page, when
from relay_tornado.errors import Invalid, NotFound, RelayError
from relay_tornado.ids import format_id, parse_id
from relay_tornado.log.consumers import with_output_name
from relay_tornado.model import STATUSES, counted, printable

_ANSWER = 500
"""The most characters of an answer that are shown."""


def _nothing_found(since: float | None, until: float | None) -> str:
    """The note if no event is in a range of time, with the reason if the range is empty."""
    if since is not None and since > time.time():
        return f"no event was found: --since is in the future, as it is {when(time.time())} here"
    if since is not None and until is not None and since >= until:
        return "no event was found: --until is not later than --since"
    return "no event was found"


def print_events(
    data: Path, command: str, params: Document, columns: Callable[[Document], Mapping[str, str]], as_json: bool
) -> Document:
    """Prints the page of events that a command returns, and returns it; `columns` are shown in addition to those of
    every list. Raises what the relay raises."""
    with open_relay(data) as relay:
        page: Document = relay.call(command, **{name: each for name, each in params.items() if each is not None})
        names = {} if as_json else {each["id"]: each["name"] for each in relay.call("bucket.list")}
    rows = (
        {
            "ID": each["id"],
            "RECEIVED": when(each["created_at"], seconds=True),
            "BUCKET": names.get(each["bucket_id"], each["bucket_id"]),
            "METHOD": each["method"],
            **columns(each),
        }
        for each in page["data"]
    )
    print_page(page, rows, _nothing_found(params["since"], params["until"]), as_json)
    return page


_option = options_of("LOGS")


_OUTPUT = _option("--output", help="An output's id, or its name in the bucket.")


def time_options(option: OptionOf) -> Decorator:
    """Adds `--since` and `--until` to a command."""
    return together(
        option("--since", type=Past(), help="Received at this time or later: 2h ago, a date (UTC), unix seconds."),
        option("--until", type=Past(), help="Received before this time."),
    )


def page_options(option: OptionOf) -> Decorator:
    """Adds `--limit` and `--cursor` to a command that lists events, newest first."""
    return together(
        option("--limit", type=Number(1, 500), default=50, show_default=True, help="Most events to list."),
        option("--cursor", help="Continue after this id, towards older events."),
    )


@click.group(cls=Group)
def logs() -> None:
    """List, show and resend events."""


@logs.command(name="list")
@_option("--bucket", help="The bucket's name or id. Default: every bucket.")
@_OUTPUT
@_option("--status", type=click.Choice(STATUSES), help="Only events with this status.")
@time_options(_option)
@page_options(_option)
@relay_options
def list_(data: Path, as_json: bool, **params: Any) -> None:
    """List events, newest first, each with its latest delivery."""
    print_events(
        data,
        "logs.list",
        params,
        lambda each: {
            "SIZE": str(each["size"]),
            "STATUS": each["status"],
            "ANSWER": str(each["status_code"] or ""),
        },
        as_json,
    )


@logs.command()
@click.argument("id")
@relay_options
def show(id: str, data: Path, as_json: bool) -> None:
    """Show the event with the id ID, or one copy of it, with each try of its deliveries."""
    with open_relay(data) as relay:
        found = relay.call("logs.show", id=id)
        if as_json:
            print_json(found)
            return
        tries, names = found.get("deliveries", ()), {}
        if any(each["output"] for each in tries):
            bucket = relay.call("bucket.show", bucket=found["bucket_id"])
            names = {each["number"]: each["name"] for each in bucket["outputs"]}
    rows = [
        ("event", found["id"]),
        ("received", when(found["created_at"], seconds=True)),
        ("from", found["ip_address"]),
    ]
    query = f"?{found['raw_query']}" if found["raw_query"] else ""
    rows.append(("request", f"{found['method']} {found['extra_path'] or '/'}{query}"))
    rows += header_rows(found)
    rows.append(("status", f"{found['status']} {found['status_code'] or ''}".strip()))
    if found["retries"]:
        rows.append(("retries", str(found["retries"])))
    rows += [("try", _try_words(each, names)) for each in tries]
    if found["response_body"] and found["status"] != "sent":
        rows.append(("answer", _beginning(b64decode(found["response_body"]))))
    if found.get("verified") is not None:
        rows.append(("signature", "good" if found["verified"] else f"bad: {found['verdict']}"))
    if found.get("resend_of"):
        rows.append(("resend of", found["resend_of"]))
    if found.get("damaged"):
        rows.append(("content", "damaged: it can't be read, and `relay check` says more"))
    print_fields(rows)
    if found["body"]:
        click.echo("")
        for line in found["body"].splitlines():
            click.echo(printable(line))


def _try_words(delivery: Document, names: Mapping[int, str]) -> str:
    """`2026-12-31 12:00:01 UTC  failed 500  in 12 ms, output 1 (shop)`. `names` has outputs' names by number.

    Without the milliseconds where nobody said how many, as in an answer over a WebSocket.
    """
    took = f"  in {delivery['duration_ms']} ms" if delivery["duration_ms"] else ""
    status = f"{delivery['status']} {delivery['status_code'] or ''}".strip()
    number = delivery["output"]
    output = f", {with_output_name(f'output {number}', names.get(number))}" if number else ""
    return f"{when(delivery['at'], seconds=True)}  {status}{took}{output}"


def _beginning(answer: bytes) -> str:
    """The beginning of an answer, or of the relay's message in place of one."""
    text = answer.decode(errors="replace").strip()
    return text if len(text) <= _ANSWER else text[:_ANSWER] + "…"


@logs.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_option("--bucket", help="Instead of ids: a bucket's events, all or a range.")
@_option("--first", type=Number(min=1), help="From this seq on.")
@_option("--last", type=Number(min=1), help="Up to this seq.")
@time_options(_option)
@_option("--filter", type=Condition(), help="Only events like header:X=Y, or that match rules as JSON.")
@_OUTPUT
@_option("--force", is_flag=True, help="Ignore the outputs' rules.")
@relay_options
def resend(
    ids: tuple[str, ...], bucket: str | None, output: str | None, force: bool, data: Path, as_json: bool, **params: Any
) -> None:
    """Send events again, as new events of their bucket: those with the ids ID, or a range of a bucket."""
    orders: Document = {"output": output or "", "process_policy": "force" if force else "skip"}
    wanted = {name: value for name, value in params.items() if value is not None}
    if bool(ids) == (bucket is not None):
        raise click.UsageError("name events by their ids, or a bucket with --bucket")
    if ids and wanted:
        raise click.UsageError(f"--{next(iter(wanted))} belongs to --bucket: leave it out with ids")
    everything = bucket is not None and not wanted
    question = f"Send every event of {printable(bucket or '')} again?"
    if everything and sys.stdin.isatty() and not click.confirm(question, err=True):
        raise Failure("nothing was sent")
    made: list[str] = []
    with open_relay(data) as relay:
        problem = _each(relay, ids, orders, made) if bucket is None else _range(relay, bucket, wanted, orders, made)
    done = f"sent {counted(len(made), 'event')} again"
    with unless_seen(f"{done}; {problem}" if problem else done):
        if as_json:
            print_json({"status": "resent", "ids": made} | ({"problem": problem} if problem else {}))
        elif made:
            which = made[0] + (f" … {made[-1]}" if len(made) > 1 else "")
            click.echo(printable(f"{done.capitalize()}: {which}"))
    if not made and not as_json:
        note(_nothing_found(wanted.get("since"), wanted.get("until")))
    if problem:
        raise Failure(problem)


def _each(relay: Caller, ids: Sequence[str], orders: Document, made: list[str]) -> str:
    """Sends events again, and adds the ids of the copies to `made`. Returns the problem that ended this after the first
    copy, or "". Raises RelayError if there is no copy yet."""
    checked: set[tuple[str, int | None]] = set()
    for place, each in enumerate(ids, 1):
        try:
            with suppress(Invalid, NotFound):  # sending it will say so
                copy = parse_id(each)
                one = copy.epoch, copy.output  # an epoch is one bucket's
                if (orders["output"] or copy.output is not None) and one not in checked:
                    checked.add(one)
                    # The event, as a copy whose output does not get it any more is no log.
                    event = relay.call("logs.show", id=format_id(copy.epoch, copy.seq))
                    _check_output(relay, event["bucket_id"], orders["output"], copy.output)
            made += relay.call("logs.resend", id=each, **orders)["ids"]
        except RelayError as error:
            if not made:
                raise
            behind = f", nor what is behind it ({counted(len(ids) - place, 'event')})" if place < len(ids) else ""
            return f"{each} was not sent{behind}: {in_flags('logs', str(error))}"
    return ""


def _check_output(relay: Caller, bucket: str, reference: str, number: int | None = None) -> None:
    """Looks at the output that is to get copies, named by a reference or else by its number: says so if it will get
    them later. Raises Conflict if nobody would get them."""
    owner = relay.call("bucket.show", bucket=bucket)
    if reference:
        # If there is none, or more than one, sending will say so.
        found = named(owner["outputs"], reference, getitem)
    else:
        found = [each for each in owner["outputs"] if each["number"] == number]
    if len(found) == 1:
        check_sendable(found[0])


def _range(relay: Caller, bucket: str, wanted: Document, orders: Document, made: list[str]) -> str:
    """Like `_each`, for a range of a bucket."""
    if orders["output"]:
        _check_output(relay, bucket, orders["output"])
    problem, first = "", wanted.get("first", 1)
    while not problem:
        try:
            # The end is fixed before the first request, so that later ones do not copy the copies.
            if "last" not in wanted:
                newest = relay.call("logs.list", bucket=bucket, limit=1)["data"]
                wanted["last"] = int(newest[0]["seq"]) if newest else 0
            answer = relay.call("logs.resend_range", bucket=bucket, **wanted, **orders)
            made += answer["ids"]
            for gap in answer.get("skipped", ()):
                note(f"not sent: {gap['from']} to {gap['to']}, whose content is not there ({gap['reason']})")
            left = left_over(answer, first)
        except RelayError as error:
            if not made:
                raise
            problem = in_flags("logs", str(error))
            break
        if left is None:
            return ""
        first, wanted["cursor"] = left, answer["next_cursor"]
        problem = answer.get("problem", "")
    return f"broken off: {problem}; the same command with --first {first} --last {wanted['last']} goes on there"
