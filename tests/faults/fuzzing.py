"""What comes from outside, made up by hypothesis and by mutation: nothing but the errors that are meant comes out.

Control messages, cursors and rules are fuzzed as functions, requests and WebSocket frames on a running relay, whose
log then holds no traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from relay_tornado.errors import Invalid
from relay_tornado.ids import format_id, parse_id
from relay_tornado.log.lineage import place_cursor
from relay_tornado.model import Bounds, Cursor, Epoch, NewEvent
from relay_tornado.rules import compile_rules
from relay_tornado.subject import Subject
from relay_tornado.wire.control import Incoming, parse
from tests.acceptance.clients import Sender, read_log
from tests.acceptance.relay import TIMEOUT, Relay
from tests.faults.frames import TEXT, frame
from tests.faults.outcome import Outcome

BATCH = 500
LEAST = 0.1
"""Share of the ids and rules that are in order at least, so that what is done with those is tried, too. In fewer
examples than a batch it varies, and there is one at least."""
CONNECTIONS = 8

# What a client may say, made of the words that count.

_WORDS = (
    *(
        "action",
        "auth",
        "subscribe",
        "unsubscribe",
        "respond",
        "pong",
        "ack",
        "nak",
        "key",
        "secret",
        "buckets",
        "since",
    ),
    *("on_gap", "consumer", "filter", "max_body", "outputs", "none", "all", "earliest", "latest", "last", "time", "id"),
    *("status", "headers", "body", "body_base64", "extended", "meta", "resume", "fail", "explicit", "receipt", "delay"),
    *(
        "and",
        "or",
        "not",
        "match",
        "type",
        "parameter",
        "source",
        "header",
        "payload",
        "query",
        "name",
        "value",
        "regex",
    ),
    *("substring", "contains", "does-not-contain", "payload-hash-sha1", "payload-hash-sha256", "ip-whitelist"),
    *("ip-range", "base64decode", "k3v9x1q7m2ab-42", "k3v9x1q7m2ab-42-1", "*", "", "a.0.b", "10.0.0.0/8"),
)
_TEXT = st.sampled_from(_WORDS) | st.text(max_size=20)
_SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 600)
    | st.floats(allow_nan=True, allow_infinity=True)
    | _TEXT
)
_JSON = st.recursive(
    _SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=6), max_leaves=25
)
_MESSAGE = st.fixed_dictionaries({"action": st.sampled_from(_WORDS[1:8])}, optional=dict.fromkeys(_WORDS[8:37], _JSON))
_MESSAGE_TEXT = st.one_of(
    _MESSAGE.map(json.dumps),
    _JSON.map(json.dumps),
    st.text(max_size=200),
    st.integers(1, 3_000).map(lambda depth: "[" * depth),
    st.integers(1, 400).map(lambda depth: '{"action":' * depth + "1" + "}" * depth),
)
_MATCH = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            (
                "value",
                "contains",
                "does-not-contain",
                "regex",
                "payload-hash-sha1",
                "payload-hash-sha256",
                "ip-whitelist",
            )
        ),
        "parameter": st.fixed_dictionaries(
            {},
            optional={
                "source": st.sampled_from(("header", "payload", "query")),
                "name": _TEXT | st.just("a.b.0"),
                "base64decode": st.booleans(),
            },
        )
        | _JSON,
        **dict.fromkeys(("value", "substring", "secret", "ip-range"), _TEXT),
        "regex": st.text("ab.*+?()[]{}|\\^$1,-", max_size=12),
    },
)
_NEEDED = {
    "value": "value",
    "contains": "substring",
    "does-not-contain": "substring",
    "regex": "regex",
    "payload-hash-sha1": "secret",
    "payload-hash-sha256": "secret",
}
_IN_ORDER = st.sampled_from(sorted(_NEEDED)).flatmap(
    lambda kind: st.fixed_dictionaries(
        {
            "type": st.just(kind),
            _NEEDED[kind]: st.sampled_from(("a", "^h|b", "x.*", "1{1,9}", "{")),
            "parameter": st.fixed_dictionaries(
                {
                    "source": st.sampled_from(("header", "payload", "query")),
                    "name": st.sampled_from(("X-A", "a", "a.0.b")),
                },
                optional={"base64decode": st.booleans()},
            ),
        }
    )
)
_RULES = st.recursive(
    st.fixed_dictionaries({"match": _IN_ORDER | _MATCH}) | _JSON,
    lambda inner: (
        st.fixed_dictionaries({}, optional=dict.fromkeys(("and", "or", "not"), st.lists(inner, max_size=3)))
        | st.dictionaries(
            st.sampled_from(("and", "or", "not")),
            st.lists(st.fixed_dictionaries({"match": _IN_ORDER}), min_size=1, max_size=3),
            min_size=1,
            max_size=1,
        )
    ),
    max_leaves=8,
)
_BODY = st.one_of(
    st.binary(max_size=200), _JSON.map(lambda value: json.dumps(value).encode()), st.just(b"[" * 5_000), st.just(b"")
)
_HEADERS = st.one_of(
    st.binary(max_size=100), st.just(b"X-A: b\r\nContent-Type: application/json\r\n"), st.just(b"\xff: \xfe\r\n")
)
_ID = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"[a-z0-9]{11,13}-[0-9]{1,22}(-[0-9]{1,12})?", fullmatch=True),
    st.from_regex(r"[a-z0-9]{12}-[1-9][0-9]{14,21}(-[1-9][0-9]{7,11})?", fullmatch=True),
)
_EPOCHS: Final = ("aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc", "dddddddddddd")


_understood: Counter[str] = Counter()
"""How many of the examples were in order, so that more was looked at than whether they are."""


def _control(text: str) -> None:
    assert isinstance(parse(text), Incoming)


def _ids(text: str) -> None:
    try:
        cursor = parse_id(text)
    except Invalid:
        return
    _understood["ids"] += 1
    assert format_id(cursor.epoch, cursor.seq, cursor.output) == text


@st.composite
def _bounds(draw: Any) -> Bounds:
    head = draw(st.integers(0, 30))
    first = draw(st.integers(1, head + 1))
    starts = sorted(draw(st.sets(st.integers(2, head + 1), max_size=3))) if head else []
    epochs = tuple(Epoch(name, start) for name, start in zip(_EPOCHS, [1, *starts], strict=False))
    return Bounds(first, head, epochs, draw(st.booleans()))


def _cursors(bounds: Bounds, cursor: Cursor | None) -> None:
    placed = place_cursor(bounds, cursor)
    assert bounds.first - 1 <= placed.after <= bounds.head or (placed.gap is None and placed.after == bounds.first - 1)
    if placed.gap is None:
        assert cursor is not None
        assert placed.after == cursor.seq
    elif placed.gap.from_seq is not None:
        assert cursor is not None
        assert placed.gap.to_seq is not None
        assert placed.gap.from_seq <= placed.gap.to_seq
        # What was read and what is told to be missing leave nothing between them.
        assert placed.after + 1 in (placed.gap.from_seq, placed.gap.to_seq + 1)


def _rules(document: Any, body: bytes, headers: bytes, query: bytes, address: str) -> None:
    try:
        rules = compile_rules(document)
    except Invalid:
        return
    _understood["rules"] += bool(document)
    event = NewEvent("input", "POST", b"/p", query, headers, body, address)
    assert rules.matches(Subject(event)) in (True, False)


_CURSOR = st.none() | st.builds(Cursor, st.sampled_from((*_EPOCHS, "unknown00000")), st.integers(0, 40))
_ADDRESS = st.sampled_from(("192.0.2.1", "::1", "", "nonsense"))

FUNCTIONS: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "control messages": (_control, (_MESSAGE_TEXT,)),
    "ids": (_ids, (_ID,)),
    "cursors": (_cursors, (_bounds(), _CURSOR)),
    "rules": (_rules, (_RULES, _BODY, _HEADERS, st.binary(max_size=40), _ADDRESS)),
}


def run_functions(folder: Path, examples: int, seconds: float = 0.0) -> Outcome:
    """So many examples for each function, and more of them until `seconds` have passed for each."""
    outcome = Outcome()
    _understood.clear()
    for name, (function, strategies) in FUNCTIONS.items():
        end, done = time.monotonic() + seconds, 0
        while done < examples or time.monotonic() < end:
            count = min(examples - done, BATCH) if done < examples else BATCH
            batch = settings(
                max_examples=count,
                database=None,
                deadline=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )(hypothesis.seed(random.getrandbits(64))(given(*strategies)(function)))
            try:
                batch()
            except Exception as error:  # what hypothesis then shows is as small as it could make it
                notes = "; ".join(getattr(error, "__notes__", ()))
                outcome.broken.append(f"{name}: {error!r} {notes}")
                break
            done += count
        outcome.figures[name] = done
    outcome.figures["exceptions"] = len(outcome.broken)
    for name in ("ids", "rules"):
        done = max(int(str(outcome.figures[name])), 1)
        share = _understood[name] / done
        outcome.expect(share > (LEAST if done >= BATCH else 0), f"of the {name} only {share:.0%} were in order")
    return outcome


# On a running relay.

_REQUESTS: Final = (
    b"POST %s HTTP/1.1\r\nHost: relay.test\r\nContent-Length: 5\r\n\r\nhello",
    b"POST %s/a/b?c=d HTTP/1.1\r\nHost: relay.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST %s HTTP/1.1\r\nHost: relay.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    b"GET %s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /v1/buckets HTTP/1.1\r\nHost: relay.test\r\nAuthorization: Basic eDp5\r\n\r\n",
    b"POST /v1/buckets HTTP/1.1\r\nHost: relay.test\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
)
_PIECES: Final = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"\x00",
        b"\xff",
        b":",
        b";",
        b",",
        b"0",
        b"-1",
        b"+5",
        b"0x5",
        b"5 5",
        b"%%",
    ),
    *(b"Content-Length: 6\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Host: b\r\n"),
    *(
        b" folded\r\n",
        b"Connection: close\r\n",
        b"Expect: nothing\r\n",
        b"99999999999999999999",
        b"HTTP/1.1",
        b"HTTP/2.0",
    ),
    *(b"\r\n\r\n", b"chunked, gzip", b"X: " + b"y" * 5_000 + b"\r\n", b"../", b"http://relay.test", b"*"),
)
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def _mutated(randoms: random.Random, data: bytes) -> bytes:
    for _ in range(randoms.choice((0, 1, 1, 2, 3, 8))):
        at = randoms.randrange(len(data) + 1)
        to = min(len(data), at + randoms.choice((0, 0, 1, 2, 10, 40)))
        piece = randoms.choice((*_PIECES, data[at:to] * 2, randoms.randbytes(randoms.randrange(5))))
        data = data[:at] + piece + data[to:]
    return data


def run_wire(folder: Path, examples: int, seconds: float = 0.0) -> Outcome:
    """So many mutated requests and sockets, and more until `seconds` have passed, on a relay that does its work."""
    outcome = Outcome()
    seed = random.getrandbits(32)
    with Relay(folder / "fuzzed", idle_timeout=5, body_timeout=5) as relay:
        path = relay.create_bucket("orders")
        token = relay.create_token()
        fuzzer = _Fuzzer(relay, path, token, seed, outcome)
        asyncio.run(fuzzer.run(examples, seconds))
        stored = len(asyncio.run(read_log(relay, token, "orders")))
        outcome.figures |= {
            "requests": fuzzer.requests,
            "accepted": fuzzer.accepted,
            "stored": stored,
            "refused": fuzzer.refused,
            "closed unanswered": fuzzer.unanswered,
            "sockets": fuzzer.sockets,
        }
        outcome.expect(fuzzer.accepted > 0 < fuzzer.refused, "not everything is accepted, nor everything refused")
        outcome.expect(fuzzer.accepted <= stored, f"{fuzzer.accepted} were accepted, {stored} are stored")
        outcome.expect(relay.stop() == 0, "the relay did not end with 0")
        said = relay.said()
        tracebacks = said.count("Traceback")
        outcome.figures["tracebacks"] = tracebacks
        outcome.expect(not tracebacks, f"seed {seed}: {said[said.find('Traceback') :][:3000]}")
    return outcome


class _Fuzzer:
    def __init__(self, relay: Relay, path: str, token: tuple[str, str], seed: int, outcome: Outcome) -> None:
        self.requests = self.accepted = self.refused = self.unanswered = self.sockets = 0
        self._relay = relay
        self._path = path.encode()
        self._auth = json.dumps({"action": "auth", "key": token[0], "secret": token[1]}).encode()
        self._random = random.Random(seed)
        self._outcome = outcome

    async def run(self, examples: int, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.requests < examples or time.monotonic() < end:
            async with asyncio.TaskGroup() as group:
                for number in range(CONNECTIONS):
                    group.create_task(self._socket() if number == 0 else self._request())
            if self._random.random() < 0.05:
                async with Sender(self._relay, self._path.decode()) as sender:
                    self.accepted += await sender.post(b"beside") == 200

    async def _request(self) -> None:
        self.requests += 1
        chosen = self._random.choices(_REQUESTS, k=self._random.choice((1, 1, 2)))
        data = _mutated(self._random, b"".join(each.replace(b"%s", self._path) for each in chosen))
        statuses = [int(status) for status in _STATUS.findall(await self._exchange(data))]
        if not statuses:
            self.unanswered += 1
        for status in statuses:
            self.refused += status >= 300
            self._outcome.expect(status not in (500, 501, 502), f"{status} for {data!r}")
        # What is answered with a 200 has to be a webhook: nothing else of what is sent gets one.
        self.accepted += statuses.count(200)

    async def _socket(self) -> None:
        """A handshake, perhaps the authentication, and then messages, frames and bytes that are made up."""
        self.sockets += 1
        randoms = self._random
        data = (
            b"GET /v1/socket HTTP/1.1\r\nHost: relay.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        if randoms.random() < 0.8:
            data += frame(TEXT, self._auth)
        for _ in range(randoms.randrange(1, 6)):
            words = {randoms.choice(_WORDS): randoms.choice(_WORDS) for _ in range(3)}
            message = json.dumps({"action": randoms.choice(_WORDS[1:8]), **words}).encode()
            data += frame(
                randoms.choice((TEXT, TEXT, TEXT, 0, 2, 8, 9, 10, randoms.randrange(16))),
                _mutated(randoms, message),
                fin=randoms.random() < 0.9,
                reserved=randoms.choice((0, 0, 0, 0, 0, 0, 0, randoms.randrange(8))),
            )
        if randoms.random() < 0.3:
            data = _mutated(randoms, data)
        await self._exchange(data)

    async def _exchange(self, data: bytes) -> bytes:
        """What comes back within a moment after all was sent."""
        received = b""
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._relay.port)
            try:
                at = self._random.randrange(len(data) + 1)
                writer.write(data[:at])
                await asyncio.sleep(0)
                writer.write(data[at:])
                if self._random.random() < 0.5:
                    writer.write_eof()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TIMEOUT):
                        while more := await asyncio.wait_for(reader.read(1 << 16), 0.05):
                            received += more
            finally:
                writer.transport.abort()
        return received
