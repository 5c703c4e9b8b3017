"""relay_tornado/protocol.py: the conversation as docs/protocol.md tells it, with neither a socket nor a clock."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_tornado.errors import CloseCode, Conflict, Damaged, Invalid
from relay_tornado.ids import hash_secret
from relay_tornado.protocol import (
    AUTH_PAUSE,
    Authenticate,
    Close,
    Deliver,
    EndDelivery,
    Log,
    Ping,
    Send,
    Session,
    Subscribe,
    Unsubscribe,
    Wait,
)
from relay_tornado.wire import control
from tests.protocol.talk import (
    AUTH,
    AUTHENTICATED,
    OTHER,
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


def test_the_stock_conversation() -> None:
    """auth is answered by authenticated, not too soon; subscribe by subscribed, with the names as requested."""
    session = Session(SETTINGS, 0.0)
    assert session.received(AUTH) == (Authenticate("K", "S"),)
    effects = session.authenticated(TOKEN)
    assert kinds(effects) == [Wait, Send]
    assert effects[0] == Wait(AUTH_PAUSE)
    assert AUTH_PAUSE > 0.005
    assert sent(effects) == [AUTHENTICATED]
    (effect,) = session.received(SUBSCRIBE)
    assert effect == Subscribe(control.Subscribe(("foo", "bar")), TOKEN)
    effects = session.subscribed(control.Subscribe(("foo", "bar")), [{"bucket_id": "x", "gap": None}], 0.0)
    assert kinds(effects) == [Send, Deliver]
    assert sent(effects) == [{"type": "status", "status": "subscribed", "message": "subscribed to buckets: foo, bar"}]


@pytest.mark.parametrize(
    "text",
    [
        '{"action":"subscribe"}',
        '{"action":"subscribe","buckets":null}',
        '{"action":"subscribe","buckets":[]}',
        '{"action":"subscribe","buckets":[""],"key":"","secret":""}',
    ],
)
def test_every_way_to_ask_for_all(text: str) -> None:
    """Absent, null, [] and [""] are answered alike."""
    session = authenticated()
    (effect,) = session.received(text)
    assert isinstance(effect, Subscribe)
    assert effect.request.buckets == ()
    (answer,) = sent(session.subscribed(effect.request, [], 0.0))
    assert answer["message"] == "subscribed to buckets: all"


def test_wrong_credentials() -> None:
    """unauthorized, then 4001, after a moment that only this socket waits."""
    session = Session(SETTINGS, 0.0)
    session.received(AUTH)
    effects = session.refused("the key or secret is wrong")
    assert kinds(effects) == [EndDelivery, Wait, Send, Close]
    assert sent(effects) == [{"type": "status", "status": "unauthorized", "message": "the key or secret is wrong"}]
    assert closing(effects) == CloseCode.UNAUTHORIZED
    assert session.received(AUTH) == ()


@pytest.mark.parametrize(
    "text", [SUBSCRIBE, '{"action":"subscribe","since":5}', '{"action":"unsubscribe"}', '{"action":"ack"}']
)
def test_who_are_you(text: str) -> None:
    """What needs a token, sent before auth, gives unauthorized and 4001."""
    effects = Session(SETTINGS, 0.0).received(text)
    assert [frame["status"] for frame in sent(effects)] == ["unauthorized"]
    assert closing(effects) == CloseCode.UNAUTHORIZED


IGNORED = [
    "",
    "{",
    "[1]",
    "null",
    '{"action":"dance"}',
    '{"action":5}',
    '{"buckets":[]}',
    '{"action":"subscribe","buckets":"foo"}',
    '{"action":"subscribe","buckets":[1]}',
    b"\x00\x01",
]


@pytest.mark.parametrize("message", IGNORED, ids=repr)
def test_what_a_stock_client_errs_in_is_ignored(message: str | bytes) -> None:
    """Malformed JSON, unknown actions, wrong types and bytes get no frame; the first is logged, once."""
    session = authenticated()
    assert kinds(session.received(message)) == [Log]
    for again in IGNORED:
        assert session.received(again) == ()
    assert isinstance(session.received(SUBSCRIBE)[0], Subscribe)


def test_what_nobody_understands_before_auth_is_ignored_too() -> None:
    """Only what has to come from somebody closes the socket; the auth message may still come."""
    session = Session(SETTINGS, 0.0)
    assert kinds(session.received("{")) == [Log]
    assert session.received('{"action":"dance"}') == session.received(b"\x00\x01") == ()
    assert session.received(AUTH) == (Authenticate("K", "S"),)


def test_json_in_binary_messages_is_read() -> None:
    """As that in text: some clients send the bytes that their encoder gives them."""
    session = Session(SETTINGS, 0.0)
    assert session.received(AUTH.encode()) == (Authenticate("K", "S"),)
    session.authenticated(TOKEN)
    assert session.received(SUBSCRIBE.encode()) == (Subscribe(control.Subscribe(("foo", "bar")), TOKEN),)
    session.received('{"action":"subscribe","extended":true}')
    (frame,) = sent(session.received(b"\xff{}"))
    assert (frame["status"], frame["code"]) == ("error", "invalid")


def test_a_second_auth_with_the_same_token_changes_nothing() -> None:
    """It is answered again, and delivery goes on."""
    session = subscribed()
    assert session.received(AUTH) == (Authenticate("K", "S"),)
    effects = session.authenticated(TOKEN)
    assert kinds(effects) == [Wait, Send]
    assert session.state == "subscribed"


def test_a_second_auth_with_another_token_ends_the_subscription() -> None:
    """The client subscribes anew, as the other token."""
    session = subscribed()
    session.received(AUTH)
    assert kinds(session.authenticated(OTHER)) == [EndDelivery, Wait, Send]
    assert session.state == "authenticated"
    assert session.received(SUBSCRIBE) == (Subscribe(control.Subscribe(("foo", "bar")), OTHER),)


def test_unsubscribe_is_answered() -> None:
    """Its sender has asked for our additions."""
    session = subscribed()
    (effect,) = session.received('{"action":"unsubscribe","buckets":["foo"]}')
    assert effect == Unsubscribe(control.Unsubscribe(("foo",)))
    assert sent(session.unsubscribed(effect.request)) == [
        {"type": "status", "status": "unsubscribed", "message": "unsubscribed from buckets: foo"}
    ]
    (frame,) = sent(session.unsubscribed(effect.request, Invalid("too many")))
    assert (frame["code"], frame["message"]) == ("invalid", "too many")
    assert session.extended


def test_ten_seconds_to_authenticate() -> None:
    """At the end of the time the socket is closed, with a reason that says so, and not before it."""
    session = Session(SETTINGS, 100.0)
    assert session.due == 110.0
    assert Session(replace(SETTINGS, auth_timeout=60.0), 100.0).due == 120.0, "it is pinged before"
    assert session.tick(109.9, nothing_moved) == ()
    effects = session.tick(110.0, nothing_moved)
    assert closing(effects) == CloseCode.TOO_SLOW
    assert "auth" in effects[-1].reason  # type: ignore[union-attr]


def test_who_is_not_read_in_time_has_more_time_to_authenticate() -> None:
    """The relay was late, and the message may be in the socket; once, and as long as it was late."""
    session = Session(SETTINGS, 100.0)
    assert session.tick(113.0, nothing_moved) == ()
    assert session.due == 116.0
    assert closing(session.tick(150.0, nothing_moved)) == CloseCode.TOO_SLOW


def test_who_authenticates_has_all_the_time() -> None:
    """The deadline is for auth alone."""
    session = authenticated()
    assert session.due == SETTINGS.ping_interval
    assert session.tick(19.0, nothing_moved) == ()


def test_pings() -> None:
    """Protocol pings from the start; JSON pings from `subscribed` on, each interval, at least every 30 s."""
    assert SETTINGS.ping_interval < 30
    session = authenticated()
    assert session.tick(20.0, nothing_moved) == (Ping(),)
    assert session.due == 40.0
    session.received(SUBSCRIBE)
    # The first frame after subscribe is its answer.
    assert session.tick(40.0, nothing_moved) == (Ping(),)
    session.subscribed(control.Subscribe(), [], 41.0)
    assert session.due == 61.0
    effects = session.tick(61.0, nothing_moved)
    assert kinds(effects) == [Ping, Send]
    assert sent(effects) == [PING]
    session.received(AUTH)
    assert session.tick(81.0, nothing_moved) == (Ping(),)
    session.authenticated(TOKEN)
    assert kinds(session.tick(101.0, nothing_moved)) == [Ping, Send]


def test_pongs_are_not_required() -> None:
    """Nothing in the conversation waits for one."""
    session = subscribed()
    assert session.received('{"action":"pong"}') == ()
    for second in range(20, 2000, 20):
        assert kinds(session.tick(float(second), nothing_moved)) == [Ping, Send]


@pytest.mark.parametrize(
    ("session", "limit"),
    [
        (lambda: Session(SETTINGS, 0.0), 8192),
        (lambda: authenticated(max_message=10_000), 10_000),
        (authenticated, 1 << 20),
    ],
)
@pytest.mark.parametrize("longer", ['{"action":"pong","a":1} ', '{"action":"pong","é":1}', b'{"action":"pong","a":1} '])
def test_a_message_has_so_many_bytes(session: Callable[[], Session], limit: int, longer: str | bytes) -> None:
    """8 KiB before auth, as the setting says after it, and not one more; characters count as their bytes."""
    here = session()
    assert here.received('{"action":"pong"}'.ljust(limit)) == ()
    assert here.received(b'{"action":"pong"}'.ljust(limit)) == ()
    fill = limit - len('{"action":"pong","a":1}')
    effects = here.received(longer + " " * fill if isinstance(longer, str) else longer + b" " * fill)
    assert closing(effects) == CloseCode.TOO_BIG


def test_what_ends_a_socket_from_outside() -> None:
    """Revocation, a changed secret, expiry, a shutdown, no sign of life: each has its code, and is said once."""
    assert closing(subscribed().token_changed(None)) == CloseCode.TOKEN_REVOKED
    assert closing(subscribed().token_changed(replace(TOKEN, secret_hash="other"))) == CloseCode.TOKEN_REVOKED
    assert closing(subscribed().token_expired()) == CloseCode.TOKEN_EXPIRED
    assert closing(subscribed().going_away("the relay is going away")) == CloseCode.GOING_AWAY
    assert closing(subscribed().stuck()) == CloseCode.TOO_SLOW
    assert closing(subscribed().gap_refused()) == CloseCode.GAP_REFUSED
    session = subscribed()
    assert closing(session.token_expired()) == CloseCode.TOKEN_EXPIRED
    assert session.token_changed(None) == session.stuck() == session.going_away("") == session.tick(1e9, dict) == ()


def test_a_rotated_secret_ends_with_its_grace() -> None:
    """For whoever showed it; whoever showed the new one, and who has shown none yet, goes on."""
    rotated = replace(TOKEN, secret_hash=hash_secret("new"), previous_hash=TOKEN.secret_hash)
    without = replace(rotated, previous_hash="")
    session = authenticated()
    assert session.token_changed(rotated) == ()
    (close,) = session.token_changed(without)
    assert close == Close(CloseCode.TOKEN_REVOKED, "the secret was rotated: use the new one")
    session = Session(SETTINGS, 0.0)
    assert session.token_changed(without) == session.token_changed(None) == ()
    session.received('{"action":"auth","key":"K","secret":"new"}')
    session.authenticated(rotated)
    assert session.token_changed(without) == ()


def test_another_scope_is_taken_over() -> None:
    """A changed record of the same secret changes what a subscribe may read, and closes nothing."""
    session = authenticated()
    changed = replace(TOKEN, buckets=frozenset({"b"}))
    assert session.token_changed(changed) == ()
    assert session.received(SUBSCRIBE) == (Subscribe(control.Subscribe(("foo", "bar")), changed),)


def test_nothing_comes_after_the_end() -> None:
    """A session whose socket is gone answers nothing that was still under way."""
    session = authenticated()
    session.received(SUBSCRIBE)
    session.ended()
    assert session.subscribed(control.Subscribe(), [], 0.0) == ()
    assert session.authenticated(TOKEN) == session.refused("no") == session.received(SUBSCRIBE) == ()
    assert session.unsubscribed(control.Unsubscribe()) == session.subscribe_refused(Conflict("another kind")) == ()


STOCK = st.sampled_from(
    [AUTH, SUBSCRIBE, '{"action":"subscribe"}', '{"action":"pong"}', "{", '{"action":"x"}', b"\x00"]
)


STOCK_FRAMES = {"authenticated", "subscribed", "ping", "unauthorized"}


@given(st.lists(st.tuples(STOCK, st.booleans(), st.floats(0, 30)), max_size=20))
def test_a_stock_client_gets_stock_frames_only(steps: list[tuple[str | bytes, bool, float]]) -> None:
    """Whatever a client sends that asks for none of our additions, every frame is one that stock clients know."""
    session = Session(SETTINGS, 0.0)
    now = 0.0
    frames: list[dict[str, Any]] = []
    for message, right, passed in steps:
        now += passed
        effects = [*session.tick(now, nothing_moved), *session.received(message)]
        for effect in tuple(effects):
            if isinstance(effect, Authenticate):
                effects += session.authenticated(TOKEN) if right else session.refused("wrong")
            if isinstance(effect, Subscribe):
                gap = {"from": 1, "to": 1, "count": 1, "reason": "reset"}
                effects += session.subscribed(effect.request, [{"bucket_name": "foo", "gap": gap}], now)
        frames += sent(effects)
    assert {frame["status"] for frame in frames} <= STOCK_FRAMES
    assert all(frame.keys() == {"type", "status", "message"} for frame in frames)
    assert not session.extended


def test_a_stock_client_does_not_wait_for_a_subscription_that_is_refused() -> None:
    """It can't be told why, so it is told to come back, and the log why."""
    session = subscribed()
    session.received(SUBSCRIBE)
    effects = session.subscribe_refused(Damaged("the record is damaged"))
    assert kinds(effects) == [Log, Close]
    assert effects[0] == Log("the record is damaged")
    assert closing(effects) == CloseCode.GOING_AWAY
    assert session.received(SUBSCRIBE) == ()


def test_a_bucket_that_is_not_there_is_logged_for_a_stock_client() -> None:
    """It can't be told, so the log tells it, once a socket; an extended client's answer says it."""
    session = authenticated()
    answers = [{"bucket_name": "foo", "bucket_id": "x", "gap": None}, {"bucket_name": "bar", "error": "not_found"}]
    (effect,) = session.received(SUBSCRIBE)
    assert isinstance(effect, Subscribe)
    effects = session.subscribed(effect.request, answers, 0.0)
    assert kinds(effects) == [Send, Log, Deliver]
    line = effects[1]
    assert isinstance(line, Log)
    assert line.event == "bucket_not_found"
    assert "'bar'" in line.message
    assert "'foo'" not in line.message
    assert kinds(session.subscribed(effect.request, answers, 1.0)) == [Send, Deliver]
    extended = authenticated()
    (effect,) = extended.received(SUBSCRIBE.replace("{", '{"extended":true,', 1))
    assert isinstance(effect, Subscribe)
    assert kinds(extended.subscribed(effect.request, answers, 0.0)) == [Send, Deliver]
