"""relay_tornado/wire/frames.py: the exact forms, and that any event makes valid JSON with nothing lost."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_tornado.client.messages import read_event
from relay_tornado.model import Bucket, Event, Gap, Output
from relay_tornado.wire import frames

BUCKET = Bucket(id="b-1", name="orders", created_at=0.0, updated_at=0.0)


def event(**fields: Any) -> Event:
    values: dict[str, Any] = {
        "seq": 42,
        "epoch": "k3v9x1q7m2ab",
        "received_at": 1700000000.25,
        "input_id": "i-1",
        "method": "POST",
        "path": b"",
        "query": b"",
        "headers": b"",
        "body": b"",
        "remote_ip": "192.0.2.1",
    }
    return Event(**(values | fields))


def test_the_webhook_frame_is_exact() -> None:
    """Every key of the stock form and of ours stands where it should, and no other."""
    made = event(
        path=b"/extra", query=b"foo=bar", headers=b"Host: relay.example\r\ncontent-type: a/b\r\n", body=b'{"a":1}'
    )
    assert frames.webhook(made, BUCKET, "Default public endpoint").decode() == (
        '{"type":"webhook","meta":{"id":"k3v9x1q7m2ab-42","bucked_id":"b-1","bucket_id":"b-1","bucket_name":"orders",'
        '"input_id":"i-1","input_name":"Default public endpoint","output_name":"","output_destination":"","seq":42,'
        '"epoch":"k3v9x1q7m2ab","received_at":1700000000.25,"path":"/extra","host":"relay.example",'
        '"remote_ip":"192.0.2.1"},"headers":{"Content-Type":["a/b"]},"query":"foo=bar","body":"{\\"a\\":1}",'
        '"method":"POST"}'
    )


def test_names_may_hold_anything() -> None:
    """Percent signs and braces among it: frames are made from a form."""
    name = '50% off: %d %(epoch)b {"a"} %%'
    bucket = Bucket(id="b-%b", name=name, created_at=0.0, updated_at=0.0)
    for truncate in (False, True):
        meta = json.loads(frames.webhook(event(input_id="%s"), bucket, name, truncate=truncate))["meta"]
        assert (meta["bucket_name"], meta["input_name"]) == (name, name)
        assert (meta["bucket_id"], meta["input_id"]) == ("b-%b", "%s")


def test_copies_differ_from_the_event_in_what_is_their_outputs_alone() -> None:
    """Id, output and headers, but those of a hop; the rest is the event's, with the same bytes."""
    made = event(path=b"/extra", headers=b"a: 1\r\nb: 2\r\n", body=b"\xff")
    outputs = [
        Output("o-1", 1, "one", 0, 0, destination="http://a/x", headers={"A": ("3",), "new": ("4",), "te": ("5",)}),
        Output("o-2", 2, "two", 0, 0, destination="http://b", lock_path=True),
    ]
    copies = frames.webhooks(made, BUCKET, "in", [frames.copy_to(output) for output in outputs], False)
    plain, first, second = (json.loads(each) for each in [frames.webhook(made, BUCKET, "in"), *copies])
    assert first["headers"] == {"A": ["3"], "B": ["2"], "New": ["4"]}
    assert first["meta"] == plain["meta"] | {
        "id": "k3v9x1q7m2ab-42-1", "output_name": "one", "output_destination": "http://a/x/extra"
    }  # fmt: skip
    assert second["meta"] == plain["meta"] | {
        "id": "k3v9x1q7m2ab-42-2", "output_name": "two", "output_destination": "http://b"
    }  # fmt: skip
    assert second == plain | {"meta": second["meta"]}
    assert first["body_base64"] == "/w=="


def test_what_was_no_utf8_is_told() -> None:
    """`meta.latin1` lists it, so that the exact bytes can be had again; where there is nothing, it is not there."""
    headers = b"Host: h\r\nx-l: caf\xe9\r\nX-U: caf\xc3\xa9\r\nX-M: caf\xc3\xa9\r\nX-M: caf\xe9\r\nTE: \xe9\r\n"
    headers += b"X-F: a\r\n \xe9\r\nConnection: X-C\r\nX-C: \xe9\r\n"
    made = event(path=b"/\xe9", query=b"q=\xe9\xff", headers=headers)
    found = json.loads(frames.webhook(made, BUCKET, ""))
    assert found["meta"]["latin1"] == ["path", "query", "X-L", "X-M:1", "X-F"]
    assert (found["meta"]["path"], found["query"], found["headers"]["X-M"]) == ("/é", "q=éÿ", ["café", "café"])
    for plain in (event(path=b"/\xc3\xa9", query=b"\xc3\xa9", headers=b"X-U: \xc3\xa9\r\n"), event(path=b"/a")):
        assert b"latin1" not in frames.webhook(plain, BUCKET, "")
    ours = [Output(f"o-{n}", n, "o", 0, 0, headers=given) for n, given in enumerate(({"x-l": ("é",)}, {}, {"X-L": ()}))]
    copies = [frames.copy_to(each) for each in ours]
    marks = [json.loads(each)["meta"]["latin1"] for each in frames.webhooks(made, BUCKET, "", copies, False)]
    assert marks == [["path", "query", "X-M:1", "X-F"], found["meta"]["latin1"], ["path", "query", "X-M:1", "X-F"]]
    one = event(headers=b"X-L: \xe9\r\n")
    assert b"latin1" not in frames.webhooks(one, BUCKET, "", copies[:1], False)[0]


@given(st.binary(max_size=20), st.binary(max_size=20), st.lists(st.binary(max_size=20), max_size=4))
def test_exact_bytes_can_be_had_again(path: bytes, query: bytes, values: list[bytes]) -> None:
    """The client gives the bytes that came, whatever they are."""
    values = [value.translate(None, b"\r\n").strip(b" \t") for value in values]
    made = event(path=path, query=query, headers=b"".join(b"x-many: %b\r\n" % value for value in values))
    read = read_event(json.loads(frames.webhook(made, BUCKET, "")))
    assert read is not None
    assert (read.raw_path, read.raw_query) == (path, query)
    assert list(read.raw_headers) == [(b"X-Many", value) for value in values]


@pytest.mark.parametrize("verdict", [True, False])
def test_the_verdict_on_a_signature_is_told(verdict: bool) -> None:
    """Where there is one, in copies, too."""
    made = event(verified=verdict)
    copy = frames.copy_to(Output("o-1", 1, "one", 0, 0))
    for payload in (frames.webhook(made, BUCKET, ""), *frames.webhooks(made, BUCKET, "", [copy], True)):
        assert json.loads(payload)["meta"]["verified"] is verdict


@pytest.mark.parametrize(
    ("destination", "path", "whole"),
    [
        ("http://a", "/x", "http://a/x"),
        ("http://a/", "/x", "http://a/x"),
        ("http://a/b?c=/d", "/x/", "http://a/b/x/?c=/d"),
        ("http://a#f", "/x", "http://a/x#f"),
        ("http://a?b#c", "/x", "http://a/x?b#c"),
        ("http://a", "", "http://a"),
        ("http://a/", "/", "http://a/"),
        ("", "/x", ""),
        ("http://a/b", "/c/../x", "http://a/b/c/../x"),
        ("http://a/b?c", "/../x", "http://a/b?c"),
        ("http://a/b", "/c/%2e%2E/.%252e/x", "http://a/b"),
    ],
)
def test_the_extra_path_goes_onto_the_destinations_path(destination: str, path: str, whole: str) -> None:
    """Before its query and fragment, with one slash between; but not one that would lead out of it: clients call what
    they are told."""
    copy = frames.copy_to(Output("o-1", 1, "one", 0, 0, destination=destination))
    (payload,) = frames.webhooks(event(path=path.encode(), query=b"q=1"), BUCKET, "", [copy], False)
    assert json.loads(payload)["meta"]["output_destination"] == whole


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (
            frames.AUTHENTICATED,
            '{"type":"status","status":"authenticated","message":"connected successfully, subscribe to buckets"}',
        ),
        (frames.PING, '{"type":"status","status":"ping","message":""}'),
        (
            frames.subscribed(["a", "b"]),
            '{"type":"status","status":"subscribed","message":"subscribed to buckets: a, b"}',
        ),
        (frames.subscribed([]), '{"type":"status","status":"subscribed","message":"subscribed to buckets: all"}'),
        (
            frames.subscribed(["x"], [{"bucket_name": "x", "error": "not_found"}]),
            '{"type":"status","status":"subscribed","message":"subscribed to buckets: x",'
            '"buckets":[{"bucket_name":"x","error":"not_found"}]}',
        ),
        (
            frames.unsubscribed(["a"]),
            '{"type":"status","status":"unsubscribed","message":"unsubscribed from buckets: a"}',
        ),
        (frames.unauthorized("no"), '{"type":"status","status":"unauthorized","message":"no"}'),
        (
            frames.error("invalid", "since: …"),
            '{"type":"status","status":"error","code":"invalid","message":"since: …"}',
        ),
        (
            frames.ping({"orders": "k3v9x1q7m2ab-42"}),
            '{"type":"status","status":"ping","message":"","positions":{"orders":"k3v9x1q7m2ab-42"}}',
        ),
        (
            frames.caught_up("orders", "k3v9x1q7m2ab-0"),
            '{"type":"status","status":"caught_up","bucket_name":"orders","id":"k3v9x1q7m2ab-0"}',
        ),
        (
            frames.gap("orders", Gap("retention", 12, 40)),
            '{"type":"status","status":"gap","bucket_name":"orders",'
            '"gap":{"from":12,"to":40,"count":29,"reason":"retention"}}',
        ),
        (
            frames.gap("orders", Gap("future")),
            '{"type":"status","status":"gap","bucket_name":"orders",'
            '"gap":{"from":null,"to":null,"count":null,"reason":"future"}}',
        ),
        (
            frames.bucket_deleted("orders", "b-1"),
            '{"type":"status","status":"bucket_deleted","bucket_name":"orders","bucket_id":"b-1"}',
        ),
    ],
)
def test_status_frames_are_exact(payload: bytes, expected: str) -> None:
    """Each status frame has its documented form, byte for byte."""
    assert payload.decode() == expected


def test_a_body_that_is_no_text_comes_exactly_too() -> None:
    """`body` has replacement characters, `body_base64` the bytes."""
    frame = json.loads(frames.webhook(event(body=b"a\xff\xfeb"), BUCKET, ""))
    assert frame["body"] == "a��b"
    assert base64.b64decode(frame["body_base64"]) == b"a\xff\xfeb"


def test_a_truncated_event_has_no_body() -> None:
    """`truncated` stands instead of the body, whatever the body is."""
    frame = json.loads(frames.webhook(event(body=b"\xff" * 10), BUCKET, "", truncate=True))
    assert frame["truncated"] is True
    assert "body" not in frame
    assert "body_base64" not in frame


def test_an_empty_body_is_there() -> None:
    """Clients read `body` without asking whether it is there."""
    frame = json.loads(frames.webhook(event(), BUCKET, ""))
    assert frame["body"] == ""
    assert frame["query"] == ""
    assert not frame.keys() & {"body_base64", "truncated"}


AWKWARD = st.sampled_from(
    [b"\x00", b"\x1f\x7f", "\u2028\u2029".encode(), b'"\\', "\ufeff".encode(), "😀".encode(), b"\xed\xa0\x80", b"\xff"]
)
BODIES = st.one_of(st.binary(max_size=64), st.text(max_size=64).map(lambda text: text.encode()), AWKWARD)


@given(body=BODIES, path=BODIES, query=BODIES, value=BODIES, name=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_event_makes_valid_json_and_loses_nothing(
    body: bytes, path: bytes, query: bytes, value: bytes, name: str
) -> None:
    """The frame is UTF-8 and strict JSON, and the body comes out with the bytes that went in."""
    value = value.replace(b"\n", b"")
    made = event(body=body, path=path, query=query, headers=b"X-Odd: " + value + b"\r\n")
    payload = frames.webhook(made, Bucket(id="b", name=name, created_at=0, updated_at=0), name)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    frame = json.loads(payload.decode("utf-8"), parse_constant=refuse)
    exact = base64.b64decode(frame["body_base64"]) if "body_base64" in frame else frame["body"].encode()
    assert exact == body
    assert ("body_base64" in frame) != _is_utf8(body)
    for raw, shown in ((path, frame["meta"]["path"]), (query, frame["query"])):
        assert raw in (shown.encode(), shown.encode("latin-1", "ignore"))
    assert frame["meta"]["bucket_name"] == frame["meta"]["input_name"] == name


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
