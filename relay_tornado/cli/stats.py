"""`relay stats`: shows disk usage, and which clients lag behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import click

from relay_tornado.cli.client import check_rights, open_relay, reserve_of
from relay_tornado.cli.options import relay_options
from relay_tornado.cli.printing import note, print_fields, print_json, print_table, retention_words, size_words, when
from relay_tornado.model import counted, printable
from relay_tornado.storage.lock import read_owner

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
    clients: list[dict[str, Any]] | None = None
    if read_owner(data) is not None:
        with open_relay(data) as relay:
            clients = relay.call("client.list")
    if as_json:
        print_json(dataclasses.asdict(found) | {"path": str(found.path), "clients": clients})
        return
    names = {bucket.id: bucket.name for bucket in found.buckets}
    if found.buckets:
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
            for bucket in found.buckets
        )
        click.echo("")
    print_fields(
        (
            ("database", f"{size_words(found.database)}, {size_words(found.free_pages)} of it free for new events"),
            ("WAL", size_words(found.wal)),
            ("disk", f"{size_words(found.disk_free)} free, {size_words(found.reserve)} of it kept in reserve"),
            ("growth", f"{size_words(found.growth_a_day)} a day, if no event were removed; {lasts(found.days_left)}"),
        )
    )
    if found.consumers:
        click.echo("")
        print_table(
            {
                "CONSUMER": printable(one.name),
                "KIND": one.kind,
                "BUCKET": one.bucket,
                "BEHIND": counted(one.behind, "event"),
                "TRIED AGAIN": str(one.parked),
                "DEAD LETTERS": str(one.dead),
            }
            for one in found.consumers
        )
    if clients is None:
        note("no relay runs here, so there are no clients")
        return
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
