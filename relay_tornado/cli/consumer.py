"""`relay consumer …`: shows, moves and deletes consumers, gives events up, and handles dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from relay_tornado.cli.client import call
from relay_tornado.cli.common import Group, ask
from relay_tornado.cli.options import Number, format_duration, options_of, relay_options, together
from relay_tornado.cli.positions import Position, PositionType
from relay_tornado.cli.printing import (
    Document,
    note,
    print_answer,
    print_fields,
    print_json,
    print_list,
    print_page,
    when,
)
from relay_tornado.log.consumers import reference_of, with_output_name
from relay_tornado.model import DAY, counted

_option = options_of("CONSUMER")

_named = together(click.argument("bucket"), click.argument("consumer"))
"""The arguments that name a consumer."""

_letters = together(
    _named,
    click.argument("ids", nargs=-1, metavar="[ID]..."),
    _option("--all", "everything", is_flag=True, help="All dead letters, instead of ids."),
)
"""The arguments that name dead letters of a consumer."""


@click.group(cls=Group)
def consumer() -> None:
    """List, show, move and delete consumers, and handle their dead letters."""


@consumer.command(name="list")
@click.argument("bucket", required=False)
@relay_options
def list_(bucket: str | None, data: Path, as_json: bool) -> None:
    """List all consumers, or those of the bucket with the name or id BUCKET."""
    found = call(data, "consumer.list", bucket=bucket)
    rows = (
        {
            "BUCKET": each["bucket_name"],
            "CONSUMER": _named_words(each["kind"], each["name"], each),
            "ACKS": each["ack"],
            "POSITION": each["floor"],
            "PENDING": str(each["pending"]),
            "OLDEST": _waited(each),
            "OUT": str(each["out"]),
            "PARKED": str(each["parked"]),
            "DEAD": str(each["dead"]),
            "CONNECTIONS": str(each["connections"]),
        }
        for each in found
    )
    print_list(found, rows, 'there is no consumer: a client that subscribes with "consumer": "NAME" makes one', as_json)


@consumer.command()
@_named
@relay_options
def show(bucket: str, consumer: str, data: Path, as_json: bool) -> None:
    """Show the position of the consumer CONSUMER of the bucket BUCKET.

    CONSUMER is its name; `token:KEY` names a durable token's, `output:NAME` a public output's.
    """
    found = call(data, "consumer.show", bucket=bucket, consumer=consumer)
    if as_json:
        print_json(found)
        return
    rows = [
        ("consumer", _named_words(found["kind"], found["name"], found)),
        ("bucket", found["bucket_name"]),
        ("acks", found["ack"]),
        ("position", f"{found['floor']}, of {found['head']}"),
        (
            "pending",
            counted(found["pending"], "event") + (f", the oldest for {_waited(found)}" if found["pending"] else ""),
        ),
        ("oldest", oldest_words(found.get("oldest"))),
        ("out", f"{found['out']} given and not acked"),
        ("parked", f"{found['parked']} wait for another try"),
        ("circuit", circuit_words(found.get("circuit"))),
        ("dead", f"{found['dead']} given up" + (", see `relay consumer dead`" if found["dead"] else "")),
        ("connections", str(found["connections"])),
    ]
    if found["ack_wait"] is not None:
        tries = counted(found["max_deliver"], "attempt") if found["max_deliver"] else "no end of attempts"
        rows.append(("terms", f"{tries}, {format_duration(found['ack_wait'])} for an ack"))
    if found["gaps"] is not None:
        last = found["gaps"]["last"]
        which = "" if last["from"] is None else f" {last['from']} to {last['to']}"
        rows.append(("missed", f"{counted(found['gaps']['times'], 'gap')}, the last one{which} ({last['reason']}), "
                               f"noticed {when(found['gaps']['at'])}"))  # fmt: skip
    rows.append(("made", when(found["created_at"])))
    print_fields(rows)


@consumer.command()
@_named
@_option(
    "--to",
    type=PositionType(past=True),
    required=True,
    help="An id, a time like 2h (ago), last:100, earliest or latest.",
)
@_option("--preview", is_flag=True, help="Only print how many events it would repeat and skip.")
@relay_options
def seek(bucket: str, consumer: str, to: Position, preview: bool, data: Path, as_json: bool) -> None:
    """Move the consumer CONSUMER of the bucket BUCKET: it gets the events after the new position, and no others.

    To skip the one event at which it fails, use `relay consumer give-up`; if it is moved by receipts, move it to that
    event's id.
    """
    done = call(data, "consumer.seek", bucket=bucket, consumer=consumer, to=to.since, preview=preview)
    words = (
        f"{'Would move' if preview else 'Moved'} from {done['from']} to {done['to']}: "
        f"{counted(done['repeats'], 'event')} again, {counted(done['skips'], 'event')} passed over"
    )
    print_answer(done, words, as_json)


@consumer.command()
@_named
@_option("--yes", is_flag=True, help="Do not ask first.")
@relay_options
def delete(bucket: str, consumer: str, yes: bool, data: Path, as_json: bool) -> None:
    """Delete the consumer CONSUMER of the bucket BUCKET: its position and its dead letters. Events stay."""
    # Not one connection: a server may start while the question waits for an answer.
    if not yes:
        found = call(data, "consumer.show", bucket=bucket, consumer=consumer)
        lost = f"{counted(found['pending'], 'event')} pending and {found['dead']} given up"
        ask(
            yes,
            f"Delete the consumer {reference_of(found['kind'], found['name'])} of {found['bucket_name']}, with {lost}?",
        )
        bucket = found["bucket_id"]
    gone = call(data, "consumer.delete", bucket=bucket, consumer=consumer)
    print_answer(gone, f"Deleted {gone['id']}.", as_json)


@consumer.command()
@click.argument("bucket")
@click.argument("consumer", required=False)
@_option("--limit", type=Number(1, 1000), default=100, show_default=True, help="Most dead letters to list.")
@_option("--cursor", help="Continue after this id.")
@relay_options
def dead(bucket: str, consumer: str | None, limit: int, cursor: str | None, data: Path, as_json: bool) -> None:
    """List the dead letters of the consumer CONSUMER, or of every consumer, of the bucket BUCKET."""
    page = call(data, "consumer.dead", bucket=bucket, consumer=consumer, limit=limit, cursor=cursor or "")
    rows = (
        {
            "EVENT": each["id"],
            "CONSUMER": _named_words(each["kind"], each["consumer"], each),
            "TRIES": str(each["attempts"]),
            "FIRST": when(each["since"]),
            "GIVEN UP": when(each["at"]),
            "REASON": each["reason"],
        }
        for each in page["data"]
    )
    print_page(page, rows, "there are no dead letters", as_json)


@consumer.command(name="give-up")
@_named
@click.argument("id")
@relay_options
def give_up(bucket: str, consumer: str, id: str, data: Path, as_json: bool) -> None:
    """Give the event ID up for the consumer CONSUMER of the bucket BUCKET: it becomes a dead letter.

    It has to be an event that waits for another try, is in flight, or comes next; `relay consumer show` names the
    oldest one. If an event in flight is acked or accepted after all, it is no dead letter any more.
    """
    letter = call(data, "consumer.give_up", bucket=bucket, consumer=consumer, id=id)
    tried = f"tried {counted(letter['attempts'], 'time')}" if letter["attempts"] else "not tried"
    print_answer(letter, f"Gave {letter['id']} up, {tried}: `relay consumer resend` delivers it again.", as_json)


@consumer.command()
@_letters
@relay_options
def resend(bucket: str, consumer: str, ids: tuple[str, ...], everything: bool, data: Path, as_json: bool) -> None:
    """Redeliver dead letters of the consumer CONSUMER of the bucket BUCKET: the events ID, or all."""
    wanted = _wanted(ids, everything)
    done = call(data, "consumer.resend", bucket=bucket, consumer=consumer, ids=wanted)
    if as_json:
        print_json(done)
        return
    click.echo(f"{counted(done['scheduled'], 'event')} will be delivered again.")
    if done["left"]:
        note(
            f"{counted(done['left'], 'event')} stay dead letters: too many wait already; repeat this when some are done"
        )
    if done.get("gone"):
        them = "it" if done["gone"] == 1 else "them"
        note(f"{counted(done['gone'], 'event')} can't be delivered again: retention removed {them}")


@consumer.command()
@_letters
@_option("--yes", is_flag=True, help="Do not ask first.")
@relay_options
def forget(
    bucket: str, consumer: str, ids: tuple[str, ...], everything: bool, yes: bool, data: Path, as_json: bool
) -> None:
    """Forget dead letters of the consumer CONSUMER of the bucket BUCKET: the events ID, or all. The events stay."""
    wanted = _wanted(ids, everything)
    ask(
        yes,
        f"Forget {'all dead letters' if wanted is None else counted(len(wanted), 'dead letter')} of {consumer}?",
        "them",
    )
    done = call(data, "consumer.forget", bucket=bucket, consumer=consumer, ids=wanted)
    print_answer(done, f"Forgot {counted(done['forgotten'], 'dead letter')}.", as_json)


def _named_words(kind: str, name: str, found: Document) -> str:
    """`billing`, or `output:1 (shop)`. A relay of an older version does not name the output."""
    return with_output_name(reference_of(kind, name), found.get("output_name"))


def _wanted(ids: Sequence[str], everything: bool) -> list[str] | None:
    if bool(ids) == everything:
        raise click.UsageError("name events by their ids, or all of them with --all")
    return None if everything else list(ids)


def oldest_words(oldest: Document | None) -> str | None:
    """The oldest event that is not done, and how it is tried. A relay of an older version does not name it."""
    if oldest is None:
        return None
    words = [oldest["id"], f"tried {counted(oldest['attempts'], 'time')}" if oldest["attempts"] else "not tried yet"]
    if oldest["since"] is not None:
        words.append(f"since {when(oldest['since'], seconds=True)}")
    if oldest["out"]:
        words.append("in flight")
    elif oldest["next_at"] is not None:
        words.append(f"due at {when(oldest['next_at'], seconds=True)}")
    return ", ".join(words)


def circuit_words(circuit: Document | None) -> str | None:
    """When an output whose circuit is open is tried again; None if it is not open."""
    if circuit is None:
        return None
    next_at = circuit["next_at"]
    if next_at is None:
        return "open, the next try is in flight"
    return f"open, next try at {when(next_at, seconds=True)}"


def _waited(found: Document) -> str:
    return waited_words(int(found["lag"]["seconds"])) if found["pending"] else ""


def waited_words(seconds: int) -> str:
    """`119s`, `26h`, `14d`: rounded down in the largest unit that gives at least 2."""
    unit = next((each for each in (DAY, 3600, 60) if seconds >= 2 * each), 1)
    return format_duration(seconds - seconds % unit)
