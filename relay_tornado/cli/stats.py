"""`relay stats`: shows disk usage, and which clients lag behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from relay_tornado.cli.client import check_rights, open_relay, reserve_of
from relay_tornado.cli.options import relay_options
from relay_tornado.cli.printing import (
    Document,
    note,
    print_fields,
    print_json,
    print_table,
    retention_words,
    size_words,
    when,
)
from relay_tornado.log.consumers import with_output_name
from relay_tornado.model import counted
from relay_tornado.storage.lock import read_owner

if TYPE_CHECKING:
    from relay_tornado.ops.stats import BucketStats, ConsumerStats

_LONG: Final = 365.0
"""Days beyond which no forecast is made from the growth of one day."""


@click.command(name="stats")
@relay_options
def command(data: Path, as_json: bool) -> None:
    """Show disk usage, how long the space will last, and which clients lag behind."""
    from relay_tornado.ops.opening import locate
    from relay_tornado.ops.stats import stats

    check_rights(data)
    found = stats(locate(data), reserve_of(data))
    clients: list[Document] | None = None
    if read_owner(data) is not None:
        with open_relay(data) as relay:
            clients = relay.call("client.list")
    if as_json:
        print_json(dataclasses.asdict(found) | {"path": str(found.path), "clients": clients})
        return
    _print_buckets(found.buckets)
    print_fields(
        (
            ("database", f"{size_words(found.database)}, {size_words(found.free_pages)} of it free for new events"),
            ("WAL", size_words(found.wal)),
            ("disk", f"{size_words(found.disk_free)} free, {size_words(found.reserve)} of it kept in reserve"),
            ("growth", f"{size_words(found.growth_a_day)} a day, if no event were removed; {lasts(found.days_left)}"),
        )
    )
    _print_consumers(found.consumers)
    if clients is None:
        note("no relay runs here, so there are no clients")
    else:
        _print_clients(clients, {bucket.id: bucket.name for bucket in found.buckets})


def _print_buckets(buckets: Sequence[BucketStats]) -> None:
    if not buckets:
        return
    print_table(
        {
            "BUCKET": bucket.name,
            "EVENTS": str(bucket.events),
            "SIZE": "not stored" if bucket.ephemeral else size_words(bucket.bytes),
            "RANGE": f"{bucket.first} to {bucket.head}" if bucket.events else "empty",
            "OLDEST": _kept(bucket.oldest_at),
            "NEWEST": _kept(bucket.newest_at),
            "LAST DAY": counted(bucket.events_last_day, "event"),
            "RETENTION": retention_words(bucket.retention),
        }
        for bucket in buckets
    )
    click.echo("")


def _print_consumers(consumers: Sequence[ConsumerStats]) -> None:
    if not consumers:
        return
    click.echo("")
    print_table(
        {
            "CONSUMER": with_output_name(one.name, one.output_name),
            "KIND": one.kind,
            "BUCKET": one.bucket,
            "BEHIND": counted(one.behind, "event"),
            "TRIED AGAIN": str(one.parked),
            "DEAD LETTERS": str(one.dead),
        }
        for one in consumers
    )


def _print_clients(clients: Sequence[Document], names: Mapping[str, str]) -> None:
    """Prints how far each client is behind; `names` are the buckets' names by id."""
    click.echo("")
    if not clients:
        click.echo("No client is subscribed.")
        return
    print_table(
        {
            "CLIENT": client["client_ip"],
            "TOKEN": client["token"],
            "CONSUMER": client["consumer"],
            "BUCKET": names.get(bucket, bucket),
            "BEHIND": counted(behind, "event"),
        }
        for client in clients
        for bucket, behind in sorted(client["behind"].items(), key=lambda each: -each[1])
    )


def _kept(time: float | None) -> str:
    """When an event that is kept came in; "" if none is, as all may have left."""
    return "" if time is None else when(time)


def lasts(days: float | None) -> str:
    """The words for how long the disk lasts."""
    if days is None:
        return "it does not grow"
    return f"{'over a year' if days > _LONG else f'{days:.1f} days'} until the reserve is met"
