"""The client's small parts: addresses, waits, events' forms, the intake."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay_tornado.client import Backoff, Headers, subscribe
from relay_tornado.client.address import parse_address
from relay_tornado.client.intake import Intake
from relay_tornado.client.messages import Malformed, decode, read_event
from tests.client.peer import webhook
from tests.client.world import client_test


@pytest.mark.parametrize(
    ("url", "socket", "rest"),
    [
        ("https://relay.example", "wss://relay.example/v1/socket", "https://relay.example/v1"),
        ("http://relay.example:8080/", "ws://relay.example:8080/v1/socket", "http://relay.example:8080/v1"),
        ("wss://relay.example/v1/socket", "wss://relay.example/v1/socket", "https://relay.example/v1"),
        ("https://example.org/relay/v1", "wss://example.org/relay/v1/socket", "https://example.org/relay/v1"),
        ("ws://[::1]:80", "ws://[::1]:80/v1/socket", "http://[::1]:80/v1"),
        ("http://bücher:80/x", "ws://xn--bcher-kva:80/x/v1/socket", "http://xn--bcher-kva:80/x/v1"),
        ("https://Bücher.example", "wss://xn--bcher-kva.example/v1/socket", "https://xn--bcher-kva.example/v1"),
    ],
)
def test_addresses(url: str, socket: str, rest: str) -> None:
    """Whatever form of the relay's URL one has, the socket and REST are found."""
    address = parse_address(url)
    assert (address.socket, address.rest) == (socket, rest)
    assert address.secure == socket.startswith("wss")
    assert address.local == ("::1" in url)


@pytest.mark.parametrize(
    "url",
    [
        "relay.example",
        "ftp://x",
        "https://",
        "https://u:p@x",
        "https://x?secret=1",
        "http://a\n",
        "http://a:99999",
        "http://a:port",
        "http://a:0",
        "http://ü..example",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    """They are refused at once, and with words."""
    with pytest.raises(ValueError, match="URL"):
        subscribe(url, "k", "s")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"extended": False, "since": "earliest"}, "since is an extension"),
        ({"extended": False, "on_gap": "fail"}, "on_gap is an extension"),
        ({"extended": False, "outputs": "none"}, "outputs is an extension"),
        ({"consumer": "c", "checkpoint": "x"}, "leave checkpoint out"),
        ({"ack_wait": 3}, "belongs to a consumer"),
        ({"on_gap": "resume"}, 'a function, or "fail"'),
        ({"ack": "explicit"}, "ack belongs to a consumer"),
        ({"ack": "receipt"}, "ack belongs to a consumer"),
        ({"consumer": "c", "ack": "never"}, "ack is one of 'explicit', 'receipt'"),
        ({"consumer": "c", "ack": "receipt", "ack_wait": 3}, "ack_wait is about acks"),
        ({"outputs": "some"}, "outputs is one of"),
        ({"buckets": [""]}, "buckets are names"),
        ({"buckets": ["a", 1]}, "buckets are names"),
        ({"buffer": 0}, "buffer is a whole number, 1 or more"),
        ({"buffer": 1.5}, "buffer is a whole number"),
        ({"max_message": 0}, "max_message is a whole number"),
        ({"max_body": -1}, "max_body is a whole number, 0 or more"),
        ({"consumer": "c", "max_in_flight": 0}, "max_in_flight is a whole number, 1 or more"),
        ({"consumer": "c", "ack_wait": "3"}, "ack_wait is a number of seconds"),
        ({"checkpoint_every": -1}, "checkpoint_every is a number of seconds"),
        ({"idle_timeout": float("nan")}, "idle_timeout is a number of seconds"),
    ],
)
def test_options_that_are_wrong_or_contradict_each_other(options: dict[str, object], words: str) -> None:
    """They are refused before anything is connected."""
    with pytest.raises(ValueError, match=words):
        subscribe("http://localhost", "k", "s", **options)  # type: ignore[arg-type]


def test_waits_grow_and_differ() -> None:
    """Each wait is a random part of a step that doubles up to the longest."""
    backoff = Backoff(first=1.0, factor=2.0, longest=10.0)  # floats overflow, which an int never does
    for failures, step in ((1, 1), (2, 2), (4, 8), (5, 10), (5000, 10)):
        delays = {backoff.delay(failures) for _ in range(50)}
        assert all(step * 0.2 <= delay <= step for delay in delays)
        assert len(delays) > 40


def test_headers() -> None:
    """Names count in any case; repeats keep their order; the form of the wire comes back."""
    headers = Headers({"X-A": ["1", "2"], "B": ["3"], "Empty": []})
    assert headers["x-a"] == "1"
    assert headers.get_all("X-a") == ("1", "2")
    assert headers.get("c") is None
    assert "b" in headers
    assert "empty" not in headers
    assert list(headers) == ["X-A", "B"]
    assert len(headers) == 2
    assert list(headers.pairs()) == [("X-A", "1"), ("X-A", "2"), ("B", "3")]
    assert headers.lists() == {"X-A": ["1", "2"], "B": ["3"], "Empty": []}
    assert "1" not in repr(headers)


def test_a_webhook_of_the_original_service() -> None:
    """Its frames have less, and ids of another form: what is missing is empty."""
    event = read_event(
        {
            "type": "webhook",
            "meta": {"id": "4b6e…", "bucked_id": "b", "bucket_name": "n", "input_id": "i", "output_name": "o"},
            "headers": {"X": ["1"], "Plain": "2", "None": None},
            "query": "a=b", "body": "caf\u00e9 \ud800", "method": "PUT",
        }
    )  # fmt: skip
    assert (event.id, event.seq, event.epoch, event.bucket_id, event.output) == ("4b6e…", 0, "", "b", "o")
    assert event.headers.lists() == {"X": ["1"], "Plain": ["2"]}
    assert event.body == b"caf\xc3\xa9 \xed\xa0\x80"
    assert event.received_at is None
    assert "caf" not in repr(event)


@pytest.mark.parametrize("body", ["", "{", "[" * 200_000])
def test_a_body_that_is_no_json(body: str) -> None:
    """Nor one that nobody could read to its end."""
    with pytest.raises(ValueError, match=r"Expecting|nested too deeply"):
        read_event(webhook("abcdefghijkl-1", body)).json()


@pytest.mark.parametrize("text", ["", "[", "[]", "3", b"\xff", "[" * 200_000])
def test_what_is_no_message_is_said(text: str | bytes) -> None:
    """It may have been an event."""
    with pytest.raises(Malformed, match="JSON"):
        decode(text)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"meta": {}}, "without an id"), ({"meta": []}, "id"), ({"meta": {"id": "a"}, "body_base64": "eA"}, "base64")],
)
def test_an_event_that_is_none_is_said(fields: dict[str, Any], words: str) -> None:
    """It is neither left out nor given with another body."""
    with pytest.raises(Malformed, match=words):
        read_event({"type": "webhook", **fields})


def test_a_time_that_is_none() -> None:
    """An event is worth more than the time at which it came."""
    assert read_event({"meta": {"id": "a", "received_at": 10**400}}).received_at is None


@client_test
async def test_the_intake_is_bounded() -> None:
    """A writer waits while it is full; a reader that is cancelled takes nothing."""
    intake: Intake[str] = Intake(10)
    intake.put("a", 10)
    assert intake.full
    waiting = asyncio.create_task(intake.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await intake.first() == "a"
    assert await intake.first() == "a"
    assert intake.take("a")
    await waiting
    first = asyncio.create_task(intake.first())
    await asyncio.sleep(0)
    first.cancel()
    intake.put("b", 1)
    intake.put("c", 2)
    intake.drop(lambda item: item == "b")
    assert not intake.take("b")
    assert (await intake.first(), intake.size, len(intake)) == ("c", 2, 1)
