"""relay_tornado/wire/control.py: stock forms are read leniently, ours strictly, and nothing raises."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_tornado.ids import parse_id
from relay_tornado.model import Cursor, Earliest, Last, Latest, Since
from relay_tornado.wire.acks import Ack, Nak
from relay_tornado.wire.control import Auth, Incoming, Pong, Problem, Respond, Subscribe, Unsubscribe, parse


def subscribe(**fields: Any) -> Incoming:
    return parse(json.dumps({"action": "subscribe", **fields}))


def problem(incoming: Incoming, code: str = "invalid") -> str:
    """What is wrong with a message."""
    assert isinstance(incoming.content, Problem)
    assert incoming.content.code == code
    return incoming.content.message


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ('{"action":"auth","key":"K","secret":"S"}', Auth("K", "S")),
        ('{"action":"auth","key":"K","secret":"S","buckets":null}', Auth("K", "S")),
        ('{"action":"auth","key":"whr","secret":"sk-x","more":[1]}', Auth("whr", "sk-x")),
        ('{"action":"auth"}', Auth("", "")),
        ('{"action":"auth","key":null,"secret":"S"}', Auth("", "S")),
        ('{"action":"auth","key":"K","secret":null}', Auth("K", "")),
        ('{"action":"auth","key":1,"secret":["S"]}', Auth("", "")),
        ('{"action":"subscribe","buckets":["foo"]}', Subscribe(("foo",))),
        ('{"action":"subscribe","key":"","secret":"","buckets":["foo","bar"]}', Subscribe(("foo", "bar"))),
        ('{"action":"subscribe","key":"","secret":"","buckets":[""]}', Subscribe()),
        ('{"action":"subscribe","buckets":[]}', Subscribe()),
        ('{"action":"subscribe","buckets":null}', Subscribe()),
        ('{"action":"subscribe"}', Subscribe()),
        ('{"action":"subscribe","buckets":["foo","foo",""]}', Subscribe(("foo", "foo"))),
        ('{"action":"pong"}', Pong()),
        ('{"action":"pong","key":"","secret":"","buckets":null}', Pong()),
        ('{"action":"pong","key":7}', Pong()),
    ],
)
def test_stock_messages(text: str, content: object) -> None:
    """Every form that stock clients were seen to send is understood, and asks for nothing of ours."""
    assert parse(text) == Incoming(json.loads(text)["action"], False, content)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ('{"Action":"auth","Key":"K","Secret":"S"}', Auth("K", "S")),
        ('{"ACTION":"auth","KEY":"K","SECRET":"S"}', Auth("K", "S")),
        ('{"Action":"subscribe","Buckets":["foo"]}', Subscribe(("foo",))),
        ('{"action":"subscribe","Buckets":["foo"]}', Subscribe(("foo",))),
        ('{"Buckets":["foo"],"buckets":["bar"],"action":"subscribe"}', Subscribe(("bar",))),
        ('{"action":"subscribe","aCTION":"auth"}', Subscribe()),
        ('{"Action":"ack","ID":"k3v9x1q7m2ab-42","All":true}', Ack(Cursor("k3v9x1q7m2ab", 42), all=True)),
        ('{"action":"nak","Id":"k3v9x1q7m2ab-42","Delay":5}', Nak(Cursor("k3v9x1q7m2ab", 42), 5.0)),
        ('{"Action":"subscribe","Since":{"Orders":"earliest"}}', Subscribe(since={"Orders": Earliest()})),
    ],
)
def test_keys_may_have_capitals(text: str, content: object) -> None:
    """As whoever writes to a server in Go may write them; the exact key goes first."""
    assert parse(text).content == content


def test_a_byte_order_mark_is_ignored() -> None:
    """In text and in bytes, and only at the beginning."""
    text = '\ufeff{"action":"pong"}'
    assert parse(text) == parse(text.encode()) == Incoming("pong", False, Pong())
    assert parse(text.encode("utf-8-sig")).content == parse(f" {text}").content
    assert problem(parse(f" {text}"))


def test_an_empty_list_for_an_empty_object() -> None:
    """Clients in PHP write one for the other."""
    assert subscribe(since=[]).content == subscribe(since={}).content == Subscribe(since={})
    assert respond(headers=[]).content == respond(headers={}).content


@pytest.mark.parametrize(
    ("since", "position"),
    [
        ("latest", Latest()),
        ("earliest", Earliest()),
        ("k3v9x1q7m2ab-42", Cursor("k3v9x1q7m2ab", 42)),
        ("k3v9x1q7m2ab-42-3", Cursor("k3v9x1q7m2ab", 42, 3)),
        ("k3v9x1q7m2ab-0", Cursor("k3v9x1q7m2ab", 0)),
        ({"last": 10}, Last(10)),
        ({"last": 0}, Last(0)),
        ({"last": 3.0}, Last(3)),
        ({"time": 1700000000}, Since(1700000000.0)),
        ({"time": -1.5}, Since(-1.5)),
        (None, None),
    ],
)
def test_positions(since: Any, position: object) -> None:
    """Each form of a position, for every bucket."""
    content = subscribe(since=since).content
    assert isinstance(content, Subscribe)
    assert content.position("id", "name") == position


def test_a_map_of_positions() -> None:
    """A bucket's id goes before its name, its name before "*", and without any there is no position."""
    content = subscribe(since={"id-1": "earliest", "orders": {"last": 1}, "*": {"time": 5}}).content
    assert isinstance(content, Subscribe)
    assert content.position("id-1", "orders") == Earliest()
    assert content.position("id-2", "orders") == Last(1)
    assert content.position("id-3", "billing") == Since(5.0)
    content = subscribe(since={}).content
    assert isinstance(content, Subscribe)
    assert content.position("id-1", "orders") is None


def test_a_bucket_may_be_called_last() -> None:
    """An object is one position only where its one key is `last` or `time`, with a number."""
    content = subscribe(since={"last": "earliest"}).content
    assert isinstance(content, Subscribe)
    assert content.position("id", "last") == Earliest()
    assert content.position("id", "other") is None
    content = subscribe(since={"last": {"last": 1}, "time": "latest"}).content
    assert isinstance(content, Subscribe)
    assert content.position("id", "time") == Latest()


def test_our_fields() -> None:
    """on_gap and max_body are read, and so the client has asked for our additions."""
    assert subscribe(on_gap="fail", max_body=0) == Incoming("subscribe", True, Subscribe(on_gap="fail", max_body=0))
    assert subscribe(on_gap=None, max_body=None, since=None) == Incoming("subscribe", True, Subscribe())
    unsubscribe = parse('{"action":"unsubscribe","buckets":["a"]}')
    assert unsubscribe == Incoming("unsubscribe", True, Unsubscribe(("a",)))


@pytest.mark.parametrize(
    ("text", "extended"),
    [
        ('{"action":"subscribe","extended":true}', True),
        ('{"action":"subscribe","extended":false}', False),
        ('{"action":"subscribe","extended":1}', False),
        ('{"action":"pong","extended":true}', True),
        ('{"action":"auth","extended":true}', True),
        ('{"action":"subscribe","since":null}', True),
        ('{"action":"subscribe","outputs":null}', True),
        ('{"action":"ack"}', True),
        ('{"action":"dance","extended":true}', True),
        ('{"action":"auth","max_body":1}', False),
        *((f'{{"action":"subscribe","{field}":1}}', True) for field in ("on_gap", "consumer", "filter", "max_body")),
        *((f'{{"action":"subscribe","{field}":1}}', True) for field in ("ack", "max_in_flight", "max_deliver")),
        ('{"action":"subscribe","ack_wait":1}', True),
        ('{"action":"dance"}', False),
    ],
)
def test_who_asks_for_our_additions(text: str, extended: bool) -> None:
    """One of our fields or actions, or "extended": true, and nothing else."""
    assert parse(text).extended is extended


@pytest.mark.parametrize(
    ("fields", "where", "advice"),
    [
        ({"since": 5}, "since:", '"latest"'),
        ({"since": True}, "since:", '"latest"'),
        ({"since": "yesterday"}, "since:", "k3v9x1q7m2ab-42"),
        ({"since": "K3V9X1Q7M2AB-1"}, "since:", "k3v9x1q7m2ab-42"),
        ({"since": ["latest"]}, "since:", '"latest"'),
        ({"since": {"last": -1}}, "since.last:", "0 or more"),
        ({"since": {"last": 1.5}}, "since.last:", "whole number"),
        ({"since": {"last": True}}, "since.last:", '"latest"'),
        ({"since": {"last": 1, "orders": "latest"}}, "since.last:", '"latest"'),
        ({"since": {"last": float("nan")}}, "since.last:", "whole number"),
        ({"since": {"last": float("inf")}}, "since.last:", "whole number"),
        ({"since": {"time": float("nan")}}, "since.time:", "unix seconds"),
        ({"since": {"time": float("-inf")}}, "since.time:", "unix seconds"),
        ({"since": {"time": 10**400}}, "since.time:", "unix seconds"),
        ({"since": {"orders": "x"}}, "since.orders:", '"latest"'),
        ({"since": {"orders": None}}, "since.orders:", '"latest"'),
        ({"since": {"orders": {"last": -1}}}, "since.orders.last:", "0 or more"),
        ({"since": {"orders": {"last": 1, "time": 2}}}, "since.orders:", '"latest"'),
        ({"since": {"orders": {"last": "1"}}}, "since.orders:", '"latest"'),
        ({"since": {"orders": {"time": "now"}}}, "since.orders:", '"latest"'),
        ({"on_gap": "panic"}, "on_gap:", '"resume" or "fail"'),
        ({"on_gap": 1}, "on_gap:", '"resume" or "fail"'),
        ({"max_body": -1}, "max_body:", "0 or more"),
        ({"max_body": True}, "max_body:", "whole number of bytes"),
        ({"max_body": 1.5}, "max_body:", "whole number of bytes"),
        ({"max_body": "1MB"}, "max_body:", "whole number of bytes"),
        ({"buckets": "orders"}, "buckets:", "list"),
        ({"buckets": {"orders": 1}}, "buckets:", "list"),
        ({"buckets": ["a", 1]}, "buckets[1]:", "in quotes"),
        ({"buckets": [None]}, "buckets[0]:", "in quotes"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], where: str, advice: str) -> None:
    """The error names the field, and says what to write instead."""
    message = problem(subscribe(**fields))
    assert message.startswith(where)
    assert advice in message


def test_a_consumer() -> None:
    """Its name, what moves it, and its terms; what is left out is as it is."""
    assert subscribe(consumer="w").extended
    assert subscribe(consumer="w").content == Subscribe(consumer="w")
    assert Subscribe(consumer="w") == Subscribe(consumer="w", ack="explicit", max_in_flight=256)
    given = subscribe(consumer="w", ack="explicit", max_in_flight=10_000, ack_wait=0.5 + 0.5, max_deliver=0)
    assert given.content == Subscribe(consumer="w", max_in_flight=10_000, ack_wait=1.0, max_deliver=0)
    assert subscribe(consumer="w", ack="receipt").content == Subscribe(consumer="w", ack="receipt")
    nothing = dict.fromkeys(("consumer", "ack", "max_in_flight", "ack_wait", "max_deliver"))
    assert subscribe(**nothing).content == Subscribe()
    assert subscribe(consumer="n" * 100).content == Subscribe(consumer="n" * 100)


def test_whole_numbers_may_be_written_as_floating_ones() -> None:
    """Some clients know one kind of number only, and write 5 as 5.0 or 5e0."""
    given = subscribe(consumer="w", max_in_flight=10.0, max_deliver=5.0, max_body=1e6)
    assert given.content == Subscribe(consumer="w", max_in_flight=10, max_deliver=5, max_body=1_000_000)
    content = respond(status=201.0).content
    assert isinstance(content, Respond)
    assert (content.status, type(content.status)) == (201, int)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        *(({"consumer": name}, "consumer: ") for name in
          ("", " w", "w ", "a/b", "n" * 101, "a\nb", "a\u200bb", ".", "..", 7, ["w"])),
        *(({"consumer": "w", "ack": ack}, "ack: ") for ack in ("Explicit", "", "all", 7, True)),
        *(({"consumer": "w", "max_in_flight": n}, "max_in_flight: ") for n in (0, -1, 10_001, 1.5, "5", True)),
        *(({"consumer": "w", "ack_wait": n}, "ack_wait: ") for n in (0, 0.9, 86_401, 10**400, "5", True, [])),
        *(({"consumer": "w", "max_deliver": n}, "max_deliver: ") for n in (-1, 1_001, 1.5, "5", True)),
        *(({field: value}, f"{field}: only a consumer") for field, value in
          (("ack", "explicit"), ("ack", "receipt"), ("max_in_flight", 1), ("ack_wait", 5), ("max_deliver", 5))),
        *(({"consumer": "w", "ack": "receipt", field: 5}, f"{field}: nobody acks") for field in
          ("max_in_flight", "ack_wait", "max_deliver")),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_what_is_wrong_with_a_consumer_is_said(fields: dict[str, Any], where: str) -> None:
    """Strictly, naming the field and what to write instead."""
    incoming = subscribe(**fields)
    assert incoming.extended
    assert problem(incoming).startswith(where)


def test_filter_and_outputs() -> None:
    """A filter is taken as it is, whoever compiles it; the one value of outputs is "none"."""
    assert (subscribe().content.filter, subscribe().content.outputs) == (None, "all")  # type: ignore[union-attr]
    given = subscribe(filter={"and": []}, outputs="none")
    assert given.extended
    assert given.content == Subscribe(filter={"and": []}, outputs="none")
    assert subscribe(filter=None, outputs=None).content == Subscribe()
    assert subscribe(filter=7).content == Subscribe(filter=7)
    for wrong in ("all", "", 7, ["none"]):
        assert problem(subscribe(outputs=wrong)) == 'outputs: write "none", or leave it out'


ID = "k3v9x1q7m2ab-42"


def respond(**fields: Any) -> Incoming:
    return parse(json.dumps({"action": "respond", "id": ID, **fields}))


def test_respond() -> None:
    """Status, headers with one or several values, and a body as text or as base64."""
    at = parse_id(ID)
    assert respond().extended
    assert respond().content == Respond(at, 200, {}, b"")
    assert respond(id=f"{ID}-2").content == Respond(parse_id(f"{ID}-2"), 200, {}, b"")
    given = respond(status=201, headers={"A": "b", "C": ["d", "e"]}, body="h\xe9").content
    assert given == Respond(at, 201, {"A": ("b",), "C": ("d", "e")}, "h\xe9".encode())
    numbers = respond(headers={"Content-Length": 5, "X": [1.5, True], "Y": None}).content
    assert numbers == Respond(at, 200, {"Content-Length": ("5",), "X": ("1.5", "true"), "Y": ()}, b"")
    assert respond(body_base64="AP8=").content == Respond(at, 200, {}, b"\x00\xff")
    assert respond(body="", body_base64="AP8=", headers=None).content == Respond(at, 200, {}, b"\x00\xff")
    assert respond(status=0).content == Respond(at, 0, {}, b"")
    assert respond(status_code=500).content == Respond(at, 500, {}, b"")
    assert respond(status_code=500, status=201).content == Respond(at, 201, {}, b"")


def test_an_answer_that_was_cut_within_a_character() -> None:
    """Half a surrogate pair in it is U+FFFD, as by REST. In the id, it is no id."""
    given = respond(headers={"X-A": ["\ude00"]}, body="\U0001f600 \ud83d\\ud83d").content
    assert given == Respond(parse_id(ID), 200, {"X-A": ("\ufffd",)}, "\U0001f600 \ufffd\\ud83d".encode())
    assert "id:" in problem(respond(id="\ud83d"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": None}, "id: write the meta.id of the event, in quotes"),
        ({"id": 7}, "id: write the meta.id of the event, in quotes"),
        ({"id": "x"}, "id: 'x' is no event id"),
        *(({"status": status}, "status: write 200 to 599") for status in (199, 600, -1, "200", 200.5, None, True)),
        ({"headers": ["A"]}, "headers: write an object"),
        ({"headers": {"A": {}}}, "headers.A: write a text, or a list of texts"),
        ({"headers": {"A": ["b", None]}}, "headers.A: write a text, or a list of texts"),
        ({"body": {}}, "body: write a text"),
        ({"body_base64": "A"}, "body_base64: this is no base64"),
        ({"body_base64": "AP8=!"}, "body_base64: this is no base64"),
        ({"body_base64": "\xe9"}, "body_base64: this is no base64"),
        ({"body": "a", "body_base64": "AP8="}, "body_base64: write either body or body_base64"),
    ],
)
def test_what_is_wrong_with_an_answer_is_named(fields: dict[str, Any], message: str) -> None:
    """The error names the field, and says what to write instead."""
    assert problem(respond(**fields)).startswith(message)


def test_ack_and_nak() -> None:
    """By the id of an event or of a copy."""

    def say(action: str, **fields: Any) -> Incoming:
        incoming = parse(json.dumps({"action": action, **fields}))
        assert (incoming.action, incoming.extended) == (action, True)
        return incoming

    at, copy = parse_id(ID), parse_id(f"{ID}-2")
    for fields in ({}, {"all": None}, {"all": False}):
        assert say("ack", id=ID, **fields).content == Ack(at)
    for fields in ({}, {"delay": None}, {"delay": 0}):
        assert say("nak", id=ID, **fields).content == Nak(at)
    assert say("ack", id=f"{ID}-2", all=True).content == Ack(copy, all=True)
    assert say("nak", id=f"{ID}-2", delay=86_400).content == Nak(copy, 86_400.0)
    for action, fields, where in (
        *(("ack", {"id": ID, "all": value}, "all: ") for value in ("true", 1, [])),
        *(("nak", {"id": ID, "delay": value}, "delay: ") for value in (-1, 86_401, "5", True, float("nan"), 10**400)),
        *((action, {"id": value}, "id: ") for action in ("ack", "nak") for value in (None, 7, "", "x", "K3V-1", [ID])),
    ):
        assert problem(say(action, **fields)).startswith(where), (action, fields)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid"),
        ("{", "invalid"),
        ("null", "invalid"),
        ("[]", "invalid"),
        ('"auth"', "invalid"),
        ("{}", "invalid"),
        ('{"action":5}', "invalid"),
        ('{"action":["auth"]}', "invalid"),
        ("[" * 8000, "invalid"),
        ('{"a":' * 1500, "invalid"),
        ('{"action":"subscribe","since":{"last":' + "9" * 5000 + "}}", "invalid"),
        ('{"action":"subscribe","buckets":["\\ud800"]}', "invalid"),
        ('{"action":"Auth"}', "unknown_action"),
        ('{"action":""}', "unknown_action"),
    ],
)
def test_what_is_no_message(text: str, code: str) -> None:
    """Malformed JSON, what is no object, and what has no known action are told apart."""
    assert problem(parse(text), code)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = (
    *("buckets", "since", "on_gap", "max_body", "consumer", "key", "secret", "extended", "filter", "outputs"),
    *("id", "status", "headers", "body", "body_base64"),
)
MESSAGES = st.builds(
    lambda action, fields: {"action": action, **fields},
    st.sampled_from(["auth", "subscribe", "unsubscribe", "respond", "pong", "ack", "other"]) | JSON,
    st.dictionaries(st.sampled_from(FIELDS), JSON | st.fixed_dictionaries({"last": JSON}), max_size=4),
)


@pytest.mark.parametrize("depth", [500, 30_000, 200_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"and":[', "]}")], ids=["lists", "rules"])
def test_a_field_that_is_nested_deep(opening: str, closing: str, depth: int) -> None:
    """Whether it can be read or not, it is none of a field's values, but for a filter's: that is judged elsewhere."""
    nested = opening * depth + '"\\u0041"' + closing * depth
    for action in ("auth", "subscribe", "unsubscribe", "respond", "ack", "nak", "other"):
        for field in FIELDS:
            content = parse(f'{{"action":"{action}","{field}":{nested}}}').content
            if isinstance(content, Problem):
                assert len(content.message) < 300
            else:
                assert isinstance(content, Auth | Subscribe | Unsubscribe)


@given(st.one_of(MESSAGES.map(json.dumps), JSON.map(json.dumps), st.text()))
def test_nothing_raises(text: str) -> None:
    """Whatever a client sends is a message or a problem, and what comes back can be sent."""
    incoming = parse(text)
    assert isinstance(incoming, Incoming)
    if isinstance(incoming.content, Problem):
        assert incoming.content.message
        incoming.content.message.encode()
    if isinstance(incoming.content, Subscribe):
        "".join(incoming.content.buckets).encode()


@pytest.mark.parametrize("action", ["subscribe", "unsubscribe"])
@pytest.mark.parametrize(("field", "most"), [("buckets", 1_000), ("since", 10_000)])
def test_a_message_that_would_keep_everybody_waiting(action: str, field: str, most: int) -> None:
    """More names than anybody has buckets are not even looked at. Who reads every bucket says a position for each."""

    def named(number: int) -> Incoming:
        names = [f"bucket-{index}" for index in range(number)]
        return parse(
            json.dumps({"action": action, field: names if field == "buckets" else dict.fromkeys(names, "latest")})
        )

    assert not isinstance(named(most).content, Problem)
    assert f"{field}: at most {most} " in problem(named(most + 1))
