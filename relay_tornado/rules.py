"""Rules: a tree of conditions that decides which events go to an output, or to a subscriber with a filter.

The form is the original's, which resembles the hook rules of github.com/adnanh/webhook:

    {"and": [node, …]}   every node holds                      {"match": {"type": …, "parameter": {…}, …}}
    {"or": [node, …]}    at least one holds                    parameter: {"source": "header" | "payload" | "query",
    {"not": node}        it does not hold                                  "name": …, "base64decode": true | false}
    {"not": [node, …]}   none of them holds

Types of a match, and the fields that each needs:

value, `value`                      the parameter is equal to the text
contains, `substring`               the parameter contains the text (substring is the same type)
does-not-contain, `substring`       the opposite of contains
regex, `regex`                      the RE2 pattern is found anywhere in the parameter
payload-hash-sha1, `secret`         the parameter is the body's HMAC in hex, or one of several separated by commas, each
payload-hash-sha256, `secret`       perhaps after `sha1=` or `sha256=`; with base64decode it is the HMAC itself
ip-whitelist, `ip-range`            the sender's address is in one of the ranges, separated by spaces or commas;
                                    there is no parameter

A payload's name is a dotted path with indexes (`commits.0.author.name`), see `subject`; without a name it is the whole
body. `body` is the same source. Headers are those of the request as it came in, including Host and those of the
connection. Values and names are case-sensitive, except the names of headers. Numbers, booleans and
null in a payload have their JSON text (`1.50`, `true`), and so have objects. A regex searches the first 4,000,000 bytes
of a value, divided by the instructions that the pattern compiles to (20 or so for a plain one), but at least 1,024.
All regexes of a document together search twice as much of an event, in their order; beyond that they find nothing.

A parameter that the event does not have, or that can't be decoded, matches nothing. So does-not-contain holds: an event
is delivered rather than lost. An empty document (null, {}, []) matches every event; so do one whose parts are all null,
an `and` over nothing, and several empty parts, as sent by clients that can't leave a part out. Within rules an empty
node is refused, so that it is not mistaken for a condition.
"""

from __future__ import annotations

import binascii
import functools
import hmac
import ipaddress
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from relay_tornado.errors import Invalid
from relay_tornado.patterns import MAX_PATTERN, PATTERNS, Cost
from relay_tornado.subject import Subject

MAX_NODES: Final = 32
MAX_NAME: Final = 1024
"""Bytes of a parameter's name."""
MAX_TEXT: Final = 4096
"""Bytes of a value, substring, secret or ip-range."""

_STEPS: Final = 4_000_000
"""Instructions times bytes of a search. RE2 takes up to 13 ns for each if a pattern outgrows its memory: 50 ms."""
_ALL_STEPS: Final = 2 * _STEPS
"""The same for all searches of one event by one document."""

_QUICK: Final = 0.01
_REST: Final = 9.0
"""If rules take more than `_QUICK` seconds for an event, the caller pauses for `_REST` times as long."""

_SIGNATURES: Final = 16
"""The most signatures in one parameter that are compared."""

_Test: TypeAlias = Callable[[Subject], bool]
_Parameter: TypeAlias = Callable[[Subject], bytes | None]


class Rules:
    """Compiled rules."""

    __slots__ = ("_test",)

    def __init__(self, test: _Test | None) -> None:
        self._test = test

    @property
    def every(self) -> bool:
        """Whether they have no conditions, so that every event passes."""
        return self._test is None

    def matches(self, subject: Subject) -> bool:
        """Whether the event passes. Never raises, whatever the sender sent."""
        subject.steps = _ALL_STEPS
        return self._test is None or self._test(subject)


def compile_rules(document: Any, path: str = "rules", accepted: bool = False) -> Rules:
    """Compiles a JSON document; `path` is its name in errors. What all patterns together cost is not checked if it was
    `accepted` before: an earlier version had no such limit.

    Raises Invalid naming the node that is wrong, as in `rules.and[1].match.regex: …`.
    """
    return Rules(None if _says_nothing(document) else _Compiler(Cost(limited=not accepted)).node(document, path))


def rest(seconds: float) -> float:
    """How many seconds to pause after rules took so long for an event, so that nine tenths of the time are left for
    others; 0 if they were quick."""
    return seconds * _REST if seconds > _QUICK else 0.0


_KEYS: Final = ("and", "or", "not", "match")


def _says_nothing(document: Any) -> bool:
    """Whether a whole document is empty, also in the form of clients that can't leave a part out."""
    if document in (None, [], {}):
        return True
    if not isinstance(document, Mapping):
        return False
    parts = {key: document[key] for key in _KEYS if key in document}
    if any(part not in (None, [], {}) for part in parts.values()):
        return False
    return len(parts) > 1 or parts in ({key: None} for key in _KEYS) or parts == {"and": []}


class _Compiler:
    """Compiles one document into a test, and counts its nodes and what its patterns cost."""

    def __init__(self, cost: Cost) -> None:
        self._nodes = 0
        self._cost = cost

    def node(self, document: Any, path: str) -> _Test:
        """The test of a node. Raises Invalid, also if it is empty."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise Invalid(f"this is node {self._nodes}, and rules may have {MAX_NODES}; use fewer", path)
        if not isinstance(document, Mapping):
            raise Invalid('write an object with one of "and", "or", "not" and "match"', path)
        said = [key for key in _KEYS if document.get(key) not in (None, [], {})]
        if len(said) > 1:
            raise Invalid(f"has {' and '.join(said)}; write one a node, and join nodes with and or or", path)
        if not said:
            empty = next((key for key in _KEYS if document.get(key) is not None), None)
            if empty is not None:
                raise Invalid("is empty: say something in it, or leave the whole out", f"{path}.{empty}")
            raise Invalid('has none of "and", "or", "not" and "match"', path)
        key = said[0]
        inner, at = document[key], f"{path}.{key}"
        if key == "match":
            return _match(inner, at, self._cost)
        if key == "not":
            return _not(self.node(inner, at) if isinstance(inner, Mapping) else _any(self._nodes_of(inner, at)))
        tests = self._nodes_of(inner, at)
        return _all(tests) if key == "and" else _any(tests)

    def _nodes_of(self, documents: Any, path: str) -> list[_Test]:
        if not isinstance(documents, list | tuple):
            raise Invalid("write a list of nodes", path)
        return [self.node(document, f"{path}[{index}]") for index, document in enumerate(documents)]


def _all(tests: Sequence[_Test]) -> _Test:
    def holds(subject: Subject) -> bool:
        for test in tests:  # noqa: SIM110 - a generator would cost more than most tests
            if not test(subject):
                return False
        return True

    return holds


def _any(tests: Sequence[_Test]) -> _Test:
    def holds(subject: Subject) -> bool:
        for test in tests:  # noqa: SIM110 - as above
            if test(subject):
                return True
        return False

    return holds


def _not(test: _Test) -> _Test:
    return lambda subject: not test(subject)


def _match(document: Any, path: str, cost: Cost) -> _Test:
    if not isinstance(document, Mapping):
        raise Invalid('write an object with a "type"', path)
    kind = document.get("type")
    if kind == "regex":
        return _regex(document, path, cost)
    make = _TYPES.get(kind) if isinstance(kind, str) else None
    if make is None:
        raise Invalid(f"write one of {', '.join((*_TYPES, 'regex'))}", f"{path}.type")
    return make(document, path)


def _parameter(match: Mapping[str, Any], path: str) -> _Parameter:
    path = f"{path}.parameter"
    document = match.get("parameter")
    if not isinstance(document, Mapping):
        raise Invalid('write an object with a "source" and a "name"', path)
    name = document.get("name", "")
    if not isinstance(name, str):
        raise Invalid("write a text", f"{path}.name")
    _encode(name, f"{path}.name", MAX_NAME)
    source = document.get("source")
    if not name and source in ("header", "query"):
        raise Invalid(
            f"name the {source} parameter; without a name only payload is allowed, which is then the whole payload",
            f"{path}.name",
        )
    read = _source(source, name, f"{path}.source")
    base64decode = document.get("base64decode")
    if base64decode is not None and not isinstance(base64decode, bool):
        raise Invalid("write true or false", f"{path}.base64decode")
    return (lambda subject: _base64(read(subject))) if base64decode else read


def _source(source: Any, name: str, path: str) -> _Parameter:
    if source == "header":
        field = name.lower().encode()
        return lambda subject: subject.header(field)
    if source == "query":
        return lambda subject: subject.query(name)
    if source in ("payload", "body"):
        return lambda subject: subject.payload(name)
    raise Invalid("write header, payload or query", path)


def _base64(value: bytes | None) -> bytes | None:
    """Decodes both alphabets, with padding or without."""
    if value is None:
        return None
    value = b"".join(value.split()).translate(_STANDARD)
    try:
        return binascii.a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)
    except binascii.Error:
        return None


_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def _needed(match: Mapping[str, Any], key: str, path: str) -> tuple[Any, str]:
    value = match.get(key)
    if value is None:
        raise Invalid(f"a match of type {match['type']} needs it", f"{path}.{key}")
    return value, f"{path}.{key}"


def _needed_text(match: Mapping[str, Any], key: str, path: str, limit: int = MAX_TEXT) -> bytes:
    text, at = _needed(match, key, path)
    if not isinstance(text, str) or not text:
        raise Invalid("write a text that is not empty", at)
    return _encode(text, at, limit)


def _encode(text: str, path: str, limit: int) -> bytes:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise Invalid("has half a surrogate pair in it, which no text has; write the whole character", path) from None
    if len(raw) > limit:
        raise Invalid(f"has {len(raw)} bytes, and may have {limit}", path)
    return raw


def _value(match: Mapping[str, Any], path: str) -> _Test:
    value, at = _needed(match, "value", path)
    if not isinstance(value, str | bool | int | float):
        raise Invalid("write a text, a number, true or false", at)
    wanted = _encode(value if isinstance(value, str) else json.dumps(value), at, MAX_TEXT)
    read = _parameter(match, path)

    def test(subject: Subject) -> bool:
        found = read(subject)
        return found is not None and hmac.compare_digest(found, wanted)  # the value may be a token

    return test


def _contains(match: Mapping[str, Any], path: str) -> _Test:
    substring = _needed_text(match, "substring", path)
    read = _parameter(match, path)

    def test(subject: Subject) -> bool:
        found = read(subject)
        return found is not None and substring in found

    return test


def _does_not_contain(match: Mapping[str, Any], path: str) -> _Test:
    return _not(_contains(match, path))


def _regex(match: Mapping[str, Any], path: str, cost: Cost) -> _Test:
    pattern = _needed_text(match, "regex", path, MAX_PATTERN)
    size = cost.compile(pattern, f"{path}.regex").size
    read = _parameter(match, path)
    longest = max(1024, _STEPS // size)

    def test(subject: Subject) -> bool:
        found = read(subject)
        if found is None:
            return False
        looked_at = min(len(found), longest, subject.steps // size)
        subject.steps -= looked_at * size
        return PATTERNS.get(pattern).search(found, 0, looked_at) is not None

    return test


def _payload_hash(algorithm: str, match: Mapping[str, Any], path: str) -> _Test:
    secret = _needed_text(match, "secret", path)
    read = _parameter(match, path)
    prefix = f"{algorithm}=".encode()

    def test(subject: Subject) -> bool:
        found = read(subject)
        if found is None:
            return False
        mac = subject.mac(algorithm, secret)
        if hmac.compare_digest(found, mac):
            return True
        wanted = mac.hex().encode()
        signatures = found.split(b",", _SIGNATURES)[:_SIGNATURES]
        return any(hmac.compare_digest(each.strip().removeprefix(prefix).lower(), wanted) for each in signatures)

    return test


def _ip_whitelist(match: Mapping[str, Any], path: str) -> _Test:
    text, at = _needed_text(match, "ip-range", path).decode(), f"{path}.ip-range"
    try:
        networks = [ipaddress.ip_network(part, strict=False) for part in text.replace(",", " ").split()]
    except ValueError:
        networks = []
    if not networks:
        raise Invalid("write addresses or ranges such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32", at)

    def test(subject: Subject) -> bool:
        address = subject.remote
        return address is not None and any(address in network for network in networks)

    return test


_TYPES: Final[Mapping[str, Callable[[Mapping[str, Any], str], _Test]]] = {
    "value": _value,
    "contains": _contains,
    "substring": _contains,
    "does-not-contain": _does_not_contain,
    "payload-hash-sha1": functools.partial(_payload_hash, "sha1"),
    "payload-hash-sha256": functools.partial(_payload_hash, "sha256"),
    "ip-whitelist": _ip_whitelist,
}
