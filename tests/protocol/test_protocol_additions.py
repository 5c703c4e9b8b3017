"""relay_tornado/protocol.py: what only a client says that asked for the additions: filters, answers, acks."""

import json
from collections.abc import Mapping

import pytest

from relay_tornado.errors import CloseCode, Conflict, NotFound
from relay_tornado.model import Cursor, NewEvent
from relay_tornado.protocol import Answered, Close, Deliver, Ping, Respond, Send, Session, Settle, Subscribe
from relay_tornado.subject import Subject
from relay_tornado.wire import control
from relay_tornado.wire.acks import Ack, Nak
from tests.protocol.talk import (
    PING,
    SETTINGS,
    SUBSCRIBE,
    TOKEN,
    authenticated,
    closing,
    kinds,
    nothing_moved,
    sent,
    subscribed,
)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid"),
        ("[1]", "invalid"),
        ('{"action":"dance"}', "unknown_action"),
        ('{"action":"subscribe","buckets":"foo"}', "invalid"),
        ('{"action":"subscribe","since":5}', "invalid"),
        ('{"action":"subscribe","consumer":""}', "invalid"),
        ('{"action":"subscribe","ack":"receipt"}', "invalid"),
        ('{"action":"nak"}', "invalid"),
        ('{"action":"ack","id":"x"}', "invalid"),
    ],
)
def test_who_asked_for_our_additions_is_told_what_is_wrong(message: str, code: str) -> None:
    """An error frame with its code, and the connection stays open."""
    session = subscribed('{"action":"subscribe","extended":true}')
    (frame,) = sent(session.received(message))
    assert frame.keys() == {"type", "status", "code", "message"}
    assert (frame["status"], frame["code"]) == ("error", code)
    assert isinstance(session.received(SUBSCRIBE)[0], Subscribe)


@pytest.mark.parametrize("field", ["since", "on_gap", "max_body"])
def test_a_bad_field_of_ours_is_an_error_at_once(field: str) -> None:
    """Who sends one of our fields has asked for our additions, however wrong the value is."""
    session = authenticated()
    (frame,) = sent(session.received(json.dumps({"action": "subscribe", field: [1]})))
    assert frame["code"] == "invalid"
    assert frame["message"].startswith(f"{field}:")


def test_the_answer_for_who_asked_for_more() -> None:
    """One entry a bucket is added to it."""
    session = authenticated()
    session.received('{"action":"subscribe","since":"latest"}')
    entry = {"bucket_id": "b", "bucket_name": "orders", "gap": None}
    (frame,) = sent(session.subscribed(control.Subscribe(), [entry], 0.0))
    assert frame["buckets"] == [entry]


def test_on_gap_fail_tells_and_then_closes() -> None:
    """The answer names the gap, and 4509 follows; nothing is delivered. Otherwise delivery goes on behind it."""
    request = control.Subscribe(on_gap="fail")
    gap = {"from": 1, "to": 2, "count": 2, "reason": "retention"}
    session = authenticated()
    session.received('{"action":"subscribe","on_gap":"fail"}')
    effects = session.subscribed(request, [{"bucket_name": "a", "gap": None}, {"bucket_name": "b", "gap": gap}], 0.0)
    assert kinds(effects) == [Send, Answered, Close]
    resumed = authenticated().subscribed(control.Subscribe(), [{"bucket_name": "b", "gap": gap}], 0.0)
    assert kinds(resumed) == [Send, Deliver]
    assert closing(effects) == CloseCode.GAP_REFUSED
    session = authenticated()
    session.received('{"action":"subscribe","on_gap":"fail"}')
    assert kinds(session.subscribed(request, [{"bucket_name": "x", "error": "not_found"}], 0.0)) == [Send, Deliver]


def test_pings_carry_positions_for_who_asked() -> None:
    """The positions are asked for once a ping, and not for stock clients, nor for a ping that has no use."""
    asked = []

    def moved() -> Mapping[str, str]:
        asked.append(1)
        return {"orders": "k3v9x1q7m2ab-42"}

    session = subscribed()
    session.tick(20.0, moved)
    assert not asked
    session.received('{"action":"pong","extended":true}')
    assert session.tick(40.0, moved, blocked=True) == ()
    assert not asked
    assert session.due == 60.0
    assert sent(session.tick(60.0, moved)) == [PING | {"positions": {"orders": "k3v9x1q7m2ab-42"}}]
    assert len(asked) == 1


MATCH = {"match": {"type": "value", "value": "a", "parameter": {"source": "header", "name": "x-kind"}}}


def test_a_filter_is_compiled_before_anything_changes() -> None:
    """A good one comes with the question; one that says nothing is none; a bad one is an error that names the node."""
    session = authenticated()
    (effect,) = session.received(json.dumps({"action": "subscribe", "filter": {"and": [MATCH]}}))
    assert isinstance(effect, Subscribe)
    assert effect.filter is not None
    for kind, passes in ((b"a", True), (b"b", False)):
        event = NewEvent("input", "POST", b"", b"", b"X-Kind: " + kind + b"\r\n", b"", "127.0.0.1")
        assert effect.filter.matches(Subject(event)) is passes
    for nothing in (None, {}, {"and": []}):
        (effect,) = session.received(json.dumps({"action": "subscribe", "filter": nothing, "outputs": "none"}))
        assert isinstance(effect, Subscribe)
        assert effect.filter is None
        assert effect.request.outputs == "none"
    session.subscribed(effect.request, [], 0)
    bad = {"and": [MATCH, {"match": {"type": "regex", "regex": "(", "parameter": MATCH["match"]["parameter"]}}]}
    (frame,) = sent(session.received(json.dumps({"action": "subscribe", "filter": bad})))
    assert frame["code"] == "invalid"
    assert frame["message"].startswith("filter.and[1].match.regex: ")
    assert session.state == "subscribed"
    # Nothing waits for an answer, so pings have their form.
    assert PING["status"] in [each["status"] for each in sent(session.tick(100, nothing_moved))]
    (frame,) = sent(session.received('{"action":"subscribe","filter":7}'))
    assert frame["message"].startswith("filter: ")


def test_an_answer_is_a_question_and_its_outcome_is_told() -> None:
    """`responded` with the id, or an error with its code; nothing once the socket closes."""
    session = authenticated()
    (effect,) = session.received('{"action":"respond","id":"k3v9x1q7m2ab-42-2","status":201,"body":"x"}')
    assert isinstance(effect, Respond)
    assert (effect.token, effect.request.status, effect.request.body) == (TOKEN, 201, b"x")
    assert sent(session.responded(effect.request)) == [
        {"type": "status", "status": "responded", "id": "k3v9x1q7m2ab-42-2"}
    ]
    (frame,) = sent(session.responded(effect.request, NotFound("no such event")))
    assert (frame["code"], frame["message"]) == ("not_found", "no such event")
    (frame,) = sent(session.received('{"action":"respond","id":"x"}'))
    assert (frame["code"], frame["message"][:4]) == ("invalid", "id: ")
    session.ended()
    assert session.responded(effect.request) == ()


def test_acks_are_handed_on() -> None:
    """No answer where the event is found; where it is not, who asked for our additions is told."""
    session = subscribed('{"action":"subscribe","consumer":"w"}')
    (effect,) = session.received('{"action":"ack","id":"k3v9x1q7m2ab-42-2","all":true}')
    assert effect == Settle(Ack(Cursor("k3v9x1q7m2ab", 42, 2), all=True))
    assert session.settled(effect.request, found=True) == ()
    (frame,) = sent(session.settled(effect.request, found=False))
    assert frame["code"] == "not_found"
    assert frame["message"].startswith("ack: this connection has no unacked event k3v9x1q7m2ab-42-2 ")
    (effect,) = session.received('{"action":"nak","id":"k3v9x1q7m2ab-42","delay":3}')
    assert effect == Settle(Nak(Cursor("k3v9x1q7m2ab", 42), 3.0))
    (frame,) = sent(session.settled(effect.request, found=False))
    assert frame["message"].startswith("nak: ")
    session.ended()
    assert session.settled(effect.request, found=False) == ()


@pytest.mark.parametrize("action", ["respond", "ack", "nak"])
def test_an_answer_or_an_ack_before_auth_ends_the_connection(action: str) -> None:
    """As a subscribe does."""
    session = Session(SETTINGS, 0)
    assert closing(session.received(f'{{"action":"{action}","id":"k3v9x1q7m2ab-42"}}')) == CloseCode.UNAUTHORIZED


def test_a_refused_subscribe_changes_nothing() -> None:
    """The client is told, pings go on as they did."""
    session = subscribed('{"action":"subscribe","extended":true}')
    session.received('{"action":"subscribe","consumer":"w"}')
    assert kinds(session.tick(session.due, nothing_moved)) == [Ping]
    (frame,) = sent(session.subscribe_refused(Conflict("another kind")))
    assert (frame["code"], frame["message"]) == ("conflict", "another kind")
    assert session.state == "subscribed"
    assert kinds(session.tick(session.due, nothing_moved)) == [Ping, Send]
