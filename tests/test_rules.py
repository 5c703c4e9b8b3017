"""Rules: which events they let through, what an error says, and what hostile events and patterns may cost."""

from __future__ import annotations

import base64
import copy
import hmac
import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_tornado.errors import Invalid
from relay_tornado.model import NewEvent
from relay_tornado.rules import MAX_NODES, Rules, compile_rules, rest
from relay_tornado.subject import Subject

PUSH = {
    "ref": "refs/heads/main",
    "commits": [{"author": {"name": "Zoë"}, "distinct": True}],
    "size": 3,
    "ratio": 1.50,
    "base_ref": None,
    "repository": {"name": "shop", "private": False},
}
BODY = json.dumps(PUSH, ensure_ascii=False).replace("1.5", "1.50").encode()


def event(
    body: bytes = BODY,
    headers: bytes = b"Content-Type: application/json\r\nX-GitHub-Event: push\r\n",
    query: bytes = b"env=prod&tag=a%20b",
    remote_ip: str = "192.0.2.7",
) -> Subject:
    return Subject(
        NewEvent(input_id="i", method="POST", path=b"", query=query, headers=headers, body=body, remote_ip=remote_ip)
    )


def match(kind: str, source: Any = "payload", name: Any = "ref", **rest: Any) -> dict[str, Any]:
    base64decode = {"base64decode": rest.pop("base64decode")} if "base64decode" in rest else {}
    return {"match": {"type": kind, "parameter": {"source": source, "name": name, **base64decode}, **rest}}


TRUE = match("value", value="refs/heads/main")
FALSE = match("value", value="x")


def passes(document: Any, seen: Subject | None = None) -> bool:
    return compile_rules(document).matches(seen or event())


@pytest.mark.parametrize(
    ("document", "result"),
    [
        ({"and": [TRUE, TRUE]}, True),
        ({"and": [TRUE, FALSE]}, False),
        ({"and": [FALSE, TRUE]}, False),
        ({"or": [FALSE, TRUE]}, True),
        ({"or": [TRUE, FALSE]}, True),
        ({"or": [FALSE, FALSE]}, False),
        ({"and": [FALSE]}, False),
        ({"or": [FALSE]}, False),
        (TRUE, True),
        (FALSE, False),
        ({"not": {"and": [TRUE, FALSE]}}, True),
        ({"not": {"or": [TRUE, FALSE]}}, False),
        ({"not": TRUE}, False),
        ({"not": {"not": TRUE}}, True),
        ({"not": [FALSE]}, True),
        ({"not": [FALSE, FALSE]}, True),
        ({"not": [FALSE, TRUE]}, False),
        ({"and": [{"or": [FALSE, TRUE]}, {"not": {"and": [FALSE]}}, TRUE]}, True),
        ({"and": [TRUE], "or": None, "not": None, "match": None}, True),
        ({"and": [], "or": [FALSE], "not": [], "match": {}}, False),
        ({"and": [TRUE], "comment": "kept", "id": 7}, True),
    ],
)
def test_nodes(document: Any, result: bool) -> None:
    """and, or and not do what they say; not takes any node, or a list of which none may hold; null counts as absent."""
    assert passes(document) is result


@pytest.mark.parametrize(
    "nothing",
    [None, {}, [], {"and": []}, {"and": None}, {"or": None}, {"match": None}, {"and": [], "or": []},
     {"and": None, "or": None, "not": None, "match": None}, {"and": [], "or": [], "not": None, "match": None},
     {"and": [], "or": [], "not": {}, "match": {}}],
)  # fmt: skip
def test_what_says_nothing_matches_everything(nothing: Any) -> None:
    """An empty document lets every event through, also with its parts written out; within rules it is refused."""
    assert passes(nothing)
    assert compile_rules(nothing).every
    for document in ({"and": [nothing, TRUE]}, {"or": [FALSE, nothing]}, {"not": [nothing]}, {"not": {"not": nothing}}):
        with pytest.raises(Invalid, match=r"^rules\."):
            compile_rules(document)


@pytest.mark.parametrize(
    ("document", "result"),
    [
        (match("value", value="refs/heads/main"), True),
        (match("value", value="refs/heads/MAIN"), False),
        (match("value", value="refs/heads"), False),
        (match("value", name="commits.0.author.name", value="Zoë"), True),
        (match("value", name="commits.0.distinct", value="true"), True),
        (match("value", name="commits.0.distinct", value=True), True),
        (match("value", name="repository.private", value=False), True),
        (match("value", name="size", value="3"), True),
        (match("value", name="size", value=3), True),
        (match("value", name="size", value="3.0"), False),
        (match("value", name="ratio", value="1.50"), True),
        (match("value", name="base_ref", value="null"), True),
        (match("value", "header", "x-github-EVENT", value="push"), True),
        (match("value", "header", "X-GitHub-Event", value="ping"), False),
        (match("value", "query", "tag", value="a b"), True),
        (match("value", "query", "TAG", value="a b"), False),
        (match("contains", substring="heads"), True),
        (match("contains", substring="tags"), False),
        (match("contains", name="repository", substring='"shop"'), True),
        (match("contains", name="", substring='"private": false'), True),
        (match("does-not-contain", substring="tags"), True),
        (match("does-not-contain", substring="heads"), False),
        (match("regex", regex="^refs/(heads|tags)/m"), True),
        (match("regex", regex="main$"), True),
        (match("regex", regex="^main"), False),
        (match("regex", regex="(?i)MAIN"), True),
        (match("regex", name="commits.0.author.name", regex=r"^\pL{3}$"), True),
        (match("regex", name="size", regex="^[0-9]+$"), True),
        (match("regex", "query", "env", regex="^(prod|live)$"), True),
        (match("value", value="x" * 4096), False),
        (match("value", name="x" * 1024, value="x"), False),
        (match("regex", regex="x" * 1024), False),
    ],
)
def test_matches(document: Any, result: bool) -> None:
    """Each type looks at headers, query and payload, where numbers and booleans have their JSON text."""
    assert passes(document) is result


def test_rules_see_every_header_of_the_request() -> None:
    """Also those that are not passed on: Host, and the ones of the sender's connection, as this names them."""
    sent = event(headers=b"Host: shop.example\r\nConnection: X-Hop\r\nTE: trailers\r\nX-Hop: 1\r\n")
    for name, value in (("Host", "shop.example"), ("Connection", "X-Hop"), ("TE", "trailers"), ("X-Hop", "1")):
        assert passes(match("value", "header", name, value=value), sent)


@pytest.mark.parametrize("source", ["header", "payload", "query"])
def test_a_missing_parameter(source: str) -> None:
    """What isn't there matches nothing, so what must not be in it isn't."""
    kinds: list[dict[str, Any]] = [
        {"kind": "value", "value": ""},
        {"kind": "contains", "substring": "a"},
        {"kind": "regex", "regex": ".*"},
        {"kind": "payload-hash-sha256", "secret": "s"},
    ]
    for kind in kinds:
        assert not passes(match(source=source, name="none", **kind))
        assert not passes(match(source=source, name="none", base64decode=True, **kind))
    assert passes(match("does-not-contain", source, "none", substring="a"))


@pytest.mark.parametrize(
    ("sent", "result"),
    [("YWRtaW4_Pg==", True), ("YWRtaW4_Pg", True), ("YWRtaW4/Pg==", True), (" YWRtaW4/\tPg== ", True),
     ("admin?>", False), ("YWRtaW4/Pg=", True), ("YWRt*aW4/Pg==", False), ("*", False), ("Y", False), ("", False)],
)  # fmt: skip
def test_base64decode(sent: str, result: bool) -> None:
    """A parameter is decoded first, from either alphabet, with or without padding; one that does not decode is none."""
    seen = event(headers=b"X-Role: " + sent.encode() + b"\r\n")
    assert passes(match("value", "header", "X-Role", value="admin?>", base64decode=True), seen) is result
    assert passes(match("contains", "header", "X-Role", substring="min", base64decode=True), seen) is result


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_payload_hashes(algorithm: str) -> None:
    """A body's HMAC is recognised in hex, after its prefix, among several, and in base64; another body's is not."""
    mac = hmac.digest(b"s\xc3\xa9", BODY, algorithm)
    rule = match(f"payload-hash-{algorithm}", "header", "X-Sig", secret="sé")
    in_base64 = match(f"payload-hash-{algorithm}", "header", "X-Sig", secret="sé", base64decode=True)

    def sent(value: str, body: bytes = BODY) -> Subject:
        return event(body, f"X-Sig: {value}\r\n".encode())

    for good in (mac.hex(), f"{algorithm}={mac.hex()}", mac.hex().upper(), f"{algorithm}=00, {algorithm}={mac.hex()}"):
        assert passes(rule, sent(good))
        assert not passes(rule, sent(good, BODY + b" "))
    assert passes(in_base64, sent(base64.b64encode(mac).decode()))
    for bad in ("", "00", f"md5={mac.hex()}", mac.hex()[:-1], f"{algorithm}=", "00," * 100 + mac.hex()):
        assert not passes(rule, sent(bad))
    assert not passes(match(f"payload-hash-{algorithm}", "header", "X-Sig", secret="other"), sent(mac.hex()))


def test_githubs_documented_signature_as_a_rule() -> None:
    """The vector of GitHub's documentation passes as X-Hub-Signature-256."""
    signature = b"X-Hub-Signature-256: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17\r\n"
    rule = match("payload-hash-sha256", "header", "X-Hub-Signature-256", secret="It's a Secret to Everybody")
    assert passes(rule, event(b"Hello, World!", signature))


def test_the_body_is_hashed_once_for_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten outputs that check the same signature cost one HMAC."""
    real, calls = hmac.digest, []
    monkeypatch.setattr(hmac, "digest", lambda *args: calls.append(args) or real(*args))
    rules = [compile_rules(match("payload-hash-sha1", "query", "env", secret="s")) for _ in range(10)]
    seen = event()
    assert not any(each.matches(seen) for each in rules)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("remote_ip", "ranges", "result"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.0/24", True),
        ("192.0.2.7", "192.0.2.1/24", True),
        ("192.0.2.7", "10.0.0.0/8 192.0.2.0/29", True),
        ("192.0.2.7", "10.0.0.0/8, 192.0.2.8/29", False),
        ("::ffff:192.0.2.7", "192.0.2.0/24", True),
        ("2001:db8::1", "2001:db8::/32,192.0.2.0/24", True),
        ("2001:db8::1", "192.0.2.0/24", False),
        ("", "0.0.0.0/0", False),
        ("unknown", "::/0", False),
    ],
)
def test_ip_whitelist(remote_ip: str, ranges: str, result: bool) -> None:
    """The sender's address is held against addresses and ranges of both families; no address is in none."""
    assert passes({"match": {"type": "ip-whitelist", "ip-range": ranges}}, event(remote_ip=remote_ip)) is result


P = {"source": "payload", "name": "a"}


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ([TRUE], 'rules: write an object with one of "and", "or", "not" and "match"'),
        ({"or": []}, "rules.or: is empty"),
        ({"match": {}}, "rules.match: is empty"),
        ({"and": {}}, "rules.and: is empty"),
        ({"not": {}}, "rules.not: is empty"),
        ({"not": []}, "rules.not: is empty"),
        ({"not": {"match": {}}}, "rules.not.match: is empty"),
        ({"not": {"not": {"and": []}}}, "rules.not.not.and: is empty"),
        ({"and": [{}, None]}, "rules.and[0]: has none of"),
        ({"and": [TRUE, None]}, "rules.and[1]: write an object"),
        ({"or": [{"and": []}]}, "rules.or[0].and: is empty"),
        ({"and": [{"and": None, "or": None}]}, "rules.and[0]: has none of"),
        ("x", "rules: write an object"),
        ({"adn": [TRUE]}, 'rules: has none of "and", "or", "not" and "match"'),
        ({"and": [TRUE], "or": [TRUE]}, "rules: has and and or; write one a node"),
        ({"and": TRUE}, "rules.and: write a list of nodes"),
        ({"and": [TRUE, 7]}, "rules.and[1]: write an object"),
        ({"or": [TRUE, {"not": {"and": [TRUE, {"match": 1}]}}]}, "rules.or[1].not.and[1].match: write an"),
        ({"not": [TRUE, {"xor": []}]}, "rules.not[1]: has none of"),
        ({"not": "x"}, "rules.not: write a list of nodes"),
        ({"match": {"parameter": P}}, "rules.match.type: write one of value, contains"),
        ({"match": {"type": ["value"]}}, "rules.match.type: write one of value, contains"),
        ({"match": {"type": "equals", "parameter": P}}, "rules.match.type: write one of"),
        ({"match": {"type": "value", "value": "x"}}, "rules.match.parameter: write an object"),
        ({"match": {"type": "value", "parameter": P}}, "rules.match.value: a match of type value needs it"),
        ({"match": {"type": "value", "value": [], "parameter": P}}, "rules.match.value: write a text, a number"),
        ({"match": {"type": "value", "value": "x" * 5000, "parameter": P}}, "rules.match.value: has 5000 bytes"),
        ({"match": {"type": "value", "value": "\ud800", "parameter": P}}, "rules.match.value: has half a surrogate"),
        ({"match": {"type": "contains", "value": "x", "parameter": P}}, "rules.match.substring: a match of type"),
        ({"match": {"type": "contains", "substring": "", "parameter": P}}, "rules.match.substring: write a text that"),
        ({"match": {"type": "regex", "parameter": P}}, "rules.match.regex: a match of type regex needs it"),
        ({"match": {"type": "regex", "regex": "x" * 1025, "parameter": P}}, "rules.match.regex: has 1025 bytes"),
        ({"match": {"type": "regex", "regex": 7, "parameter": P}}, "rules.match.regex: write a text"),
        ({"match": {"type": "payload-hash-sha1", "parameter": P}}, "rules.match.secret: a match of type payload-hash"),
        ({"match": {"type": "payload-hash-sha1", "secret": "", "parameter": P}}, "rules.match.secret: write a text"),
        ({"match": {"type": "ip-whitelist"}}, "rules.match.ip-range: a match of type ip-whitelist needs it"),
        ({"match": {"type": "ip-whitelist", "ip-range": "10.0.0.0/33"}}, "rules.match.ip-range: write addresses"),
        ({"match": {"type": "ip-whitelist", "ip-range": " , "}}, "rules.match.ip-range: write addresses"),
        (match("value", "cookie", value=""), "rules.match.parameter.source: write header, payload or query"),
        (match("value", "header", "", value=""), "rules.match.parameter.name: name the header parameter"),
        (match("value", "query", "", value=""), "rules.match.parameter.name: name the query parameter"),
        (match("value", name="x" * 2000, value=""), "rules.match.parameter.name: has 2000 bytes"),
        (match("value", name="\udc00", value=""), "rules.match.parameter.name: has half a surrogate"),
        (match("value", value="", base64decode="yes"), "rules.match.parameter.base64decode: write true or false"),
        (match("value", {}, value=""), "rules.match.parameter.source: write header, payload or query"),
        (match("value", name=7, value=""), "rules.match.parameter.name: write a text"),
    ],
)  # fmt: skip
def test_an_error_names_the_node(document: Any, error: str) -> None:
    """A rule that does not fit is refused with the path of the node and what to write there."""
    with pytest.raises(Invalid) as caught:
        compile_rules(document)
    assert str(caught.value).startswith(error)
    assert caught.value.field == error.partition(":")[0]


@pytest.mark.parametrize(
    "pattern",
    ["(?=a)", "(?!a)", "(?<=a)", "(?<!a)", r"(a)\1", "(?>a)", "[a", "*", "a{2000}", "((a{90}){10}){1}\\pL{900}"],
)
def test_a_pattern_that_the_engine_does_not_take(pattern: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The error says what is wrong with it and what RE2 does not have, and nothing is printed."""
    with pytest.raises(Invalid) as caught:
        compile_rules({"and": [TRUE, match("regex", regex=pattern)]}, "filter")
    assert str(caught.value).startswith("filter.and[1].match.regex: ")
    assert "no look-ahead, no look-behind and no back-references" in str(caught.value)
    assert "b'" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_at_most_32_nodes() -> None:
    """The 33rd node is refused, wide or deep, before anything is compiled."""
    assert passes({"and": [TRUE] * (MAX_NODES - 1)})
    with pytest.raises(Invalid, match=r"^rules.and\[31\]: this is node 33, and rules may have 32"):
        compile_rules({"and": [TRUE] * MAX_NODES})
    deep: Any = TRUE
    for _ in range(100_000):
        deep = {"not": deep}
    with pytest.raises(Invalid, match=r"^rules(\.not){32}: this is node 33"):
        compile_rules(deep)
    while "not" in deep:  # or freeing it would overflow the stack
        deep = deep.pop("not")


def test_the_document_stays_as_given() -> None:
    """An output echoes its rules, with what the relay does not understand, and no repr shows a secret in them."""
    document = {"and": [match("payload-hash-sha1", secret="hush-hush", extra=1)], "ui": {"open": True}, "or": None}
    before = copy.deepcopy(document)
    rules = compile_rules(document)
    rules.matches(event())
    assert document == before
    assert "hush" not in repr(rules)


@pytest.mark.parametrize("secret", [7, "hush-hush" * 1000, "hush-hush\ud800"])
def test_an_error_shows_no_secret(secret: Any) -> None:
    """A secret that is refused is not repeated."""
    with pytest.raises(Invalid) as caught:
        compile_rules(match("payload-hash-sha1", secret=secret))
    assert "hush" not in str(caught.value)


def test_a_search_costs_a_bounded_number_of_steps() -> None:
    """A pattern looks at as many bytes of a value as its size allows: all of an ordinary one, few for a monster, 1,024
    at least."""
    plain, monster = (
        match("regex", name="", regex="needle"),
        match("regex", name="", regex="([01]*1[01]{30}){30}x|needle"),
    )
    assert passes(plain, event(b" " * 100_000 + b"needle"))
    assert not passes(plain, event(b" " * 3_000_000 + b"needle"))
    assert passes(monster, event(b" " * 1000 + b"needle"))
    assert not passes(monster, event(b"01" * 1_500_000 + b"needle"))
    largest = match("regex", name="", regex="|".join([*(f"{number}{{900}}" for number in range(6)), "needle"]))
    assert passes(largest, event(b" " * 1018 + b"needle"))
    assert not passes(largest, event(b" " * 1019 + b"needle"))


def test_all_searches_cost_a_bounded_number_of_steps() -> None:
    """Those of one document share what one event may cost, so that 31 monsters cost what two do; each event and each
    document has it anew, and short values never meet it."""
    monsters = [match("regex", name="", regex=f"[01]*1[01]{{500}}{letter}") for letter in string.ascii_letters[:30]]
    needle = match("regex", name="", regex="needle")
    body = b"needle" + b"01" * 50_000
    some, many = ({"or": [*monsters[:count], needle]} for count in (1, 30))
    assert passes(some, event(body))
    assert not passes(many, event(body))
    rules = compile_rules(many)
    assert rules.matches(event(b"needle"))
    subject = event(body)
    for each, outcome in ((many, False), (some, True), (needle, True)):
        assert compile_rules(each).matches(subject) is outcome


def test_who_looks_for_long_rests() -> None:
    """Nine times as long as it took, so that others have nine tenths of the time; where it was quick, not at all."""
    assert [rest(seconds) for seconds in (0.0, 0.01, 0.02)] == [0.0, 0.0, 0.18]


@pytest.mark.parametrize("count", [2, 31])
@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [("[^a]{{1000}}x{}", 7), ("(?i)[" + "\\PL" * 60 + "]{}", 1), ("refs/heads/.*{}", MAX_NODES)],
    ids=["counts", "classes", "plain"],
)
def test_the_patterns_of_a_document_cost_a_bounded_time_to_compile(pattern: str, allowed: int, count: int) -> None:
    """31 patterns that are slow to compile would keep everybody waiting for most of a second."""
    document = {"or": [match("regex", regex=pattern.format(number)) for number in range(count)]}
    if count <= allowed:
        assert not passes(document, event(b"a"))
        return
    with pytest.raises(Invalid, match=rf"^rules\.or\[{allowed}\]\.match\.regex: all patterns together"):
        compile_rules(document)


def test_what_one_pattern_may_have_a_document_may_have() -> None:
    """No pattern is refused by what a document's patterns may have together."""
    largest = "\\pL{46}"
    assert not passes(match("regex", regex=largest))
    with pytest.raises(Invalid, match="pattern too large"):
        compile_rules(match("regex", regex=f"({largest}){{2}}"))


EVERY = {
    "or": [
        {"and": [match("value", source, name, value="\0never"), TRUE]}
        for source, name in (("header", "x"), ("query", "a"), ("payload", "a.0.b"))
    ]
    + [
        match("contains", name="a", substring="\0never"),
        match("regex", name="a.b", regex="\\x00never"),
        match("regex", name="", regex="\\x00never", base64decode=True),
        match("payload-hash-sha256", name="a", secret="s"),
        match("payload-hash-sha1", "header", "x", secret="s", base64decode=True),
        {"match": {"type": "ip-whitelist", "ip-range": "203.0.113.1"}},
    ]
}
RULES: Rules = compile_rules(EVERY)


@settings(deadline=None, max_examples=150)
@given(
    body=st.binary(max_size=60)
    | st.binary(max_size=40).map(lambda inner: b'{"a":' + inner + b"}")
    | st.recursive(st.text(max_size=4) | st.floats(), lambda inner: st.dictionaries(st.sampled_from("ab0"), inner)).map(
        lambda document: json.dumps(document).encode()
    ),
    headers=st.binary(max_size=40).map(lambda value: b"X: " + value),
    query=st.binary(max_size=40),
    remote_ip=st.text(max_size=9),
)
def test_no_event_makes_rules_raise(body: bytes, headers: bytes, query: bytes, remote_ip: str) -> None:
    """Whatever a sender puts into an event, each type answers; none of these can match."""
    assert RULES.matches(event(body, headers, query, remote_ip)) is False


@pytest.mark.parametrize(
    "body",
    [
        b'{"ref":' * 100_000,
        b'{"ref":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"ref":1e999999999}',
        b'{"ref":' + b"9" * 1_000_000 + b"}",
        b'{"ref":"\xff\xfe\\ud800"}',
        b'{"ref":"refs/heads/main","ref":"other"}',
        b"[" * 3_000_000,
        b'"' + b"\\" * 1_000_000,
        b'{"a":"' + b"\\ud800" * 300_000 + b'"}',
        b"\xff" * 1_000_000,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_hostile_payloads(body: bytes) -> None:
    """Deep, huge, malformed and double-keyed payloads are answered, and are not refs/heads/main."""
    seen = event(body)
    assert not passes(
        {"or": [TRUE, match("regex", regex="heads/main"), match("value", name="ref.ref", value="1")]}, seen
    )
    assert passes({"and": [match("does-not-contain", substring="heads/main"), {"not": TRUE}]}, seen)
