"""`relay stats`: what takes the space, and where the lag is."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from relay_tornado.log.loading import Loaded
from relay_tornado.ops import stats as module
from relay_tornado.ops.stats import stats
from relay_tornado.storage.space import Disk
from tests.acceptance.clients import Sender, Subscriber
from tests.acceptance.relay import Relay, wait_for
from tests.cli.runner import Runner
from tests.cli.server import serving
from tests.ops.filling import LOOSE, change, consume, fill, rows


def test_what_takes_the_space(cli: Runner) -> None:
    """Each bucket's events, bytes, range and times, and the file's, as they are."""
    fill(cli.data, "orders", 300)
    fill(cli.data, "empty", 0)
    found = cli.json("stats")
    orders, empty = found["buckets"]
    first, head, size, at = rows(cli.data / "relay.db", "SELECT first, head, bytes, last_at FROM log WHERE id = 1")[0]
    assert (orders["first"], orders["head"], orders["bytes"], orders["newest_at"]) == (first, head, size, at)
    assert (orders["events"], orders["events_last_day"]) == (300, 300)
    assert orders["oldest_at"] <= orders["newest_at"]
    assert (empty["events"], empty["oldest_at"], empty["first"], empty["head"]) == (0, None, 1, 0)
    assert found["database"] == (cli.data / "relay.db").stat().st_size
    assert found["clients"] is None
    assert found["growth_a_day"] > 0
    assert found["days_left"] > 0
    shown = cli("stats")
    assert shown.stderr == "relay: no relay runs here, so there are no clients\n"
    text = shown.stdout
    with serving(cli.data):
        assert cli("stats").stdout.endswith("\nNo client is subscribed.\n")
    assert re.search(r"^orders +300 ", text, re.MULTILINE)
    assert re.search(r"(days|over a year) until the reserve is met$", text, re.MULTILINE)


def test_a_bucket_that_holds_nothing_has_no_times(cli: Runner) -> None:
    """It may have had events, and they have left: so it does not say "never"."""
    cli.json("bucket", "create", "orders")
    line = next(each for each in cli("stats").stdout.splitlines() if each.startswith("orders"))
    assert line.split()[1:5] == ["0", "0", "bytes", "empty"]
    assert "never" not in line


def test_an_ephemeral_bucket_has_no_size(cli: Runner) -> None:
    """Its events count, but nothing of them is stored."""
    cli.json("bucket", "create", "orders", "--ephemeral")
    line = next(each for each in cli("stats").stdout.splitlines() if each.startswith("orders"))
    assert line.split()[1:4] == ["0", "not", "stored"]
    assert [each["ephemeral"] for each in cli.json("stats")["buckets"]] == [True]


def test_how_far_consumers_are(cli: Runner) -> None:
    """What each is not done with, tries again and gave up; where no relay runs, too."""
    consume(cli.data, fill(cli.data, "orders", 20))
    (worker,) = cli.json("stats")["consumers"]
    assert worker == {
        "bucket": "orders",
        "kind": "client",
        "name": "worker",
        "behind": 17,
        "parked": 2,
        "dead": 1,
        "output_name": None,
    }
    assert re.search(r"^worker +client +orders +17 events +2 +1", cli("stats").stdout, re.MULTILINE)


def test_the_consumer_of_an_output_is_named(cli: Runner) -> None:
    """By the output's name, behind its number; by the number alone if the bucket's record can't be understood."""
    cli.json("bucket", "create", "orders")
    cli("output", "create", "orders", "--name", "My shop", "--destination", "http://127.0.0.1:9/", "--public")
    assert [(each["name"], each["output_name"]) for each in cli.json("stats")["consumers"]] == [("1", "My shop")]
    assert re.search(r"^1 \(My shop\) +output +orders +0 events", cli("stats").stdout, re.MULTILINE)
    change(cli.data / "relay.db", 'UPDATE bucket SET document = replace(document, \'"n":1\', \'"n":""\')')
    assert [(each["name"], each["output_name"]) for each in cli.json("stats")["consumers"]] == [("1", None)]


def test_the_position_that_an_output_left(cli: Runner) -> None:
    """It is no consumer: the next command that opens the data removes it, or the relay."""
    cli.json("bucket", "create", "orders")
    for name in ("gone", "internal", "public"):
        cli("output", "create", "orders", "--name", name, "--destination", "http://127.0.0.1:9/", "--public")
    cli("output", "set", "internal", "--bucket", "orders", "--internal")
    cli("output", "delete", "gone", "--bucket", "orders", "--yes")
    assert rows(cli.data / "relay.db", "SELECT name FROM consumer ORDER BY name") == [("1",), ("3",)]
    assert [each["output_name"] for each in cli.json("stats")["consumers"]] == ["public"]


def test_a_bucket_that_is_made_meanwhile(cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not in the list yet, but its output's consumer may be."""
    cli.json("bucket", "create", "orders")
    load = module.load

    def late(raw: sqlite3.Connection) -> Loaded:
        cli("bucket", "create", "late")
        cli("output", "create", "late", "--name", "shop", "--destination", "http://127.0.0.1:9/", "--public")
        return load(raw)

    monkeypatch.setattr(module, "load", late)
    found = stats(cli.data / "relay.db", 0)
    assert [each.name for each in found.buckets] == ["orders"]
    assert [(each.bucket, each.name, each.output_name) for each in found.consumers] == [("late", "1", None)]


def test_a_consumer_whose_events_have_left(cli: Runner) -> None:
    """What it had of them, done, tried or not, is no lag: it will be given what is there, as `consumer list` says."""
    consume(cli.data, fill(cli.data, "orders", 20))
    for first, behind, parked in ((6, 15, 1), (9, 12, 0), (21, 0, 0)):
        change(cli.data / "relay.db", f"UPDATE log SET first = {first}")
        (worker,) = cli.json("stats")["consumers"]
        assert (worker["behind"], worker["parked"], worker["dead"]) == (behind, parked, 1)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE event SET received_at = CAST(NULL AS REAL)", None),
        ("UPDATE bucket SET document = replace(document, '{', '[')", "the bucket 'orders' can't be understood"),
        ("UPDATE bucket SET document = replace(document, 'retention', 'retentiom')", None),
        ("UPDATE consumer SET done = '[[6,6}'", None),
        ("UPDATE consumer SET done = '[6,6]'", None),
        ("UPDATE consumer SET kind = CAST(x'ff' AS TEXT)", "can't be read (a text in it is malformed)"),
        ("DROP TABLE consumer", "can't be read (no such table: "),
    ],
)
def test_a_damaged_file(cli: Runner, damage: str, told: str | None) -> None:
    """What can be told is told; else there is one line that says what to do."""
    consume(cli.data, fill(cli.data, "orders", 20))
    change(cli.data / "relay.db", *LOOSE, damage)
    result = cli("stats")
    assert result.exit_code == (0 if told is None else 1), result.output
    if told is not None:
        assert told in result.stderr
        assert "relay check" in result.stderr


def test_growth_where_the_first_event_is_missing(tmp_path: Path) -> None:
    """It is reckoned from the next one."""
    fill(tmp_path / "data", "orders", 100)
    path = tmp_path / "data" / "relay.db"
    sound = stats(path, 0)
    change(path, "DELETE FROM event WHERE seq < 3")
    found = stats(path, 0)
    assert found.buckets[0].oldest_at is not None
    assert found.buckets[0].a_day == sound.buckets[0].a_day


def test_growth_is_of_the_last_day(tmp_path: Path) -> None:
    """A log that is older than a day grows by what came in its last day, a younger one by its rate; an hour at least
    is counted, so that a first burst foretells nothing absurd."""
    fill(tmp_path / "data", "orders", 100)
    path = tmp_path / "data" / "relay.db"
    ((at, size),) = rows(path, "SELECT last_at, bytes FROM log")
    at, size = float(str(at)), int(str(size))
    for hours, expected in ((0.1, 24 * size), (6, 4 * size), (23.9, size), (30, 0)):
        (bucket,) = stats(path, 0, at + hours * 3600).buckets
        assert abs(bucket.a_day - expected) <= 0.05 * size, hours
    assert stats(path, 0, at + 30 * 3600).days_left is None


def test_growth_of_an_old_log_is_what_came_in_a_day(tmp_path: Path) -> None:
    """Its oldest event is from before that."""
    fill(tmp_path / "data", "orders", 100)
    path = tmp_path / "data" / "relay.db"
    change(path, "UPDATE event SET received_at = received_at - 180000 WHERE seq = 1")
    ((oldest, newest, size),) = rows(
        path, "SELECT received_at, last_at, bytes FROM event JOIN log ON log.id = event.log WHERE seq = 1"
    )
    (bucket,) = stats(path, 0, float(str(newest)) + 7200).buckets
    assert (bucket.oldest_at, bucket.newest_at, bucket.events_last_day) == (oldest, newest, 99)
    assert bucket.a_day == round(0.99 * int(str(size)))


def test_how_long_the_space_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk and the file have free, less the reserve, by what comes in a day and the room that it takes."""
    fill(tmp_path / "data", "orders", 1000, 1000)
    path = tmp_path / "data" / "relay.db"
    change(path, "DELETE FROM event WHERE seq < 900")
    disk = Disk(8_000_000, 3_000_000)
    monkeypatch.setattr("relay_tornado.ops.stats.disk_of", lambda directory: disk)
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("UPDATE bucket SET name = name")
        raw.commit()
        found = stats(path, 2_000_000)
        assert found.wal == (tmp_path / "data" / "relay.db-wal").stat().st_size > 0
    (bucket,) = found.buckets
    assert (found.disk_free, found.reserve, found.free_pages > 0) == (3_000_000, 1_000_000, True)
    assert found.growth_a_day == round(bucket.a_day * (found.database - found.free_pages) / bucket.bytes)
    assert found.days_left == (2_000_000 + found.free_pages) / found.growth_a_day
    disk = Disk(800_000_000, 3_000_000)
    assert stats(path, 50_000_000).days_left == 0
    assert stats(path, 50_000_000).wal == 0


def test_buckets_without_events(tmp_path: Path) -> None:
    """One that had some, one that has one, and one whose log a damaged file does not have."""
    for name in ("left", "one", "lost"):
        fill(tmp_path / "data", name, 0 if name == "lost" else 1)
    path = tmp_path / "data" / "relay.db"
    change(
        path,
        "UPDATE log SET first = 2 WHERE bucket = (SELECT id FROM bucket WHERE name = 'left')",
        "DELETE FROM log WHERE bucket = (SELECT id FROM bucket WHERE name = 'lost')",
    )
    found = {each.name: (each.events, each.first, each.head, each.bytes > 0) for each in stats(path, 0).buckets}
    assert found == {"left": (0, 2, 1, False), "one": (1, 1, 1, True), "lost": (0, 1, 0, False)}
    fill(tmp_path / "other", "empty", 0)
    assert (stats(tmp_path / "other" / "relay.db", 0).growth_a_day) == 0


def test_who_polls_is_no_consumer(new_relay: Callable[..., Relay]) -> None:
    """One request to /v1/events leaves nothing that seems to lag for ever."""
    relay = new_relay()
    path = relay.create_bucket("orders")
    _, secret = relay.create_token()
    relay.start()
    for body in (b"one", b"two"):
        urllib.request.urlopen(relay.url + path, data=body, timeout=60).close()
    polled = relay.rest(secret, "GET", "/v1/events?bucket=orders")
    assert [log["body"] for log in polled["logs"]] == ["one"]
    assert relay.command("stats")["consumers"] == relay.command("consumer", "list") == []
    assert relay.stop() == 0


def test_who_lags_behind(new_relay: Callable[..., Relay]) -> None:
    """A client that has everything is 0 behind, one that reads nothing is behind by what it has not been sent."""
    relay = new_relay()
    path = relay.create_bucket("orders")
    token = relay.create_token()
    relay.start()
    (bucket,) = relay.command("bucket", "list")

    async def run() -> None:
        async with Subscriber(relay, token, "orders", "latest") as subscriber, Sender(relay, path) as sender:
            await subscriber.until_caught_up()
            assert await sender.post(b"hello") == 200
            assert (await subscriber.receive())["type"] == "webhook"

            def caught_up() -> bool:
                (client,) = relay.command("stats")["clients"]
                assert client["token"] == token[0]
                return bool(client["behind"] == {bucket["id"]: 0})

            await asyncio.to_thread(wait_for, caught_up, "the client to be at the head")
        assert "BEHIND" in relay.run("stats").stdout or "No client" in relay.run("stats").stdout

    asyncio.run(run())
    assert relay.stop() == 0
