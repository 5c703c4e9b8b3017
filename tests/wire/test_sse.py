"""Server-sent events as bytes, and the ids of streams."""

from __future__ import annotations

import pytest

from relay_tornado.errors import Invalid
from relay_tornado.model import Bucket, Cursor, Event
from relay_tornado.wire import frames, sse, websocket

BUCKET = Bucket("b-1", 'or"ders', 0, 0)


def event(body: bytes, seq: int = 7) -> Event:
    return Event(seq, "k3v9x1q7m2ab", 1.5, "in", "POST", b"", b"", b"A: b\r\n", body, "192.0.2.1")


def test_an_event_has_its_lines() -> None:
    """Kind, id, retry and one line of data, and an empty line."""
    assert sse.event("webhook", b'{"a":1}', "e-1", 2000) == b'event: webhook\nid: e-1\nretry: 2000\ndata: {"a":1}\n\n'
    assert sse.event("gap", b"{}") == b"event: gap\ndata: {}\n\n"


@pytest.mark.parametrize("size", [0, 1, 50, 125, 126, 127, 65_535, 65_536, 200_000])
def test_frames_are_taken_apart(size: int) -> None:
    """Whatever their headers' length is, what was put in comes out, in its order."""
    payloads = [b"x" * size, b"", b"y" * (size // 2)]
    assert list(websocket.payloads(b"".join(map(websocket.text, payloads)))) == payloads
    assert list(websocket.payloads(b"")) == []


@pytest.mark.parametrize("body", [b"", b'{"a": "b"}', b"\xff\x00", b'"' * 5000, "\u2028\r\n".encode()])
def test_what_a_frame_is_about_is_read_off_its_beginning(body: bytes) -> None:
    """Kind and ids; and no body brings a line break into the data."""
    frame = frames.webhook(event(body), BUCKET, 'in"put')
    assert frames.told(frame) == frames.Told("webhook", "k3v9x1q7m2ab-7", "b-1")
    assert b"\n" not in frame
    assert b"\r" not in frame


def test_status_frames_tell_their_status() -> None:
    """And no id."""
    assert frames.told(frames.caught_up('a"b', "e-1")) == frames.Told("caught_up")
    assert frames.told(frames.bucket_deleted("a", "b-1")) == frames.Told("bucket_deleted")
    assert frames.told(frames.PING) == frames.Told("ping")


def test_ids_of_several_buckets_come_back_as_they_were() -> None:
    """Each bucket's cursor, of copies too, and when the stream began."""
    text = sse.several(["k3v9x1q7m2ab-41-2", "aaaaaaaaaaaa-0"], 1_700_000_000)
    assert text == "k3v9x1q7m2ab-41-2,aaaaaaaaaaaa-0@1700000000"
    assert sse.reached(text) == sse.Reached((Cursor("k3v9x1q7m2ab", 41, 2), Cursor("aaaaaaaaaaaa", 0)), 1_700_000_000)
    assert sse.reached(sse.several([], 5)) == sse.Reached((), 5)
    assert sse.reached("k3v9x1q7m2ab-41") == sse.Reached((Cursor("k3v9x1q7m2ab", 41),))


@pytest.mark.parametrize(
    "text",
    ["x", "1", "k3v9x1q7m2ab-41,aaaaaaaaaaaa-0", "k3v9x1q7m2ab-41@", "@x", "k3v9x1q7m2ab-41@-1", " ", "a-1@5", ",",
     "@" + "9" * 20, "@\u00b2"],
)  # fmt: skip
def test_what_is_no_id_of_ours_is_refused(text: str) -> None:
    """Never taken for another position."""
    with pytest.raises(Invalid, match="Last-Event-ID"):
        sse.reached(text)
