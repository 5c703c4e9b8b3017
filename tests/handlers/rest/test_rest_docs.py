"""docs/rest.md: every endpoint has its section, and its examples give what it says, in their order."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay_tornado.errors import RelayError
from relay_tornado.handlers.rest.endpoints import ENDPOINTS
from tests.handlers.rest.world import World, world

TEXT = (Path(__file__).parents[3] / "docs" / "rest.md").read_text()
BLOCK = re.compile(r"^```(http|websocket)\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
NEXT = re.compile(r"\n\n(?=[A-Z]+ /)")
"""What stands between two examples in one block."""
MADE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[a-z0-9]{12}-[0-9]+(-[0-9]+)?|sk-rly_\w+|[a-z0-9]{12}")
"""What the relay makes anew each time: ids, epochs, secrets."""
VARYING = {"headers_base64", "version", "headers", "url", "size", "instance", "now", "from", "indexed_up_to"}
REST = "…"
STARTUP = {"startup", "locked", "newer_schema", "not_writable"}
"""Codes that only a start has."""


@dataclass
class Example:
    """A request of the page, and what the page says that it gives: the status, and the body as it is or as JSON."""

    request: str
    status: str
    expected: str
    messages: str
    """What a client of the WebSocket says instead."""


@dataclass
class Names:
    """What stands for what: the page's ids, and those of this run."""

    known: dict[str, str] = field(default_factory=dict)

    def translate(self, text: str) -> str:
        for name in sorted(self.known, key=len, reverse=True):
            text = text.replace(name, self.known[name])
        return text

    def same(self, expected: Any, actual: Any, path: str = "") -> None:
        """Fails where an answer is not what the page says, but for what is made anew."""
        if isinstance(expected, dict):
            assert isinstance(actual, dict), path
            assert set(expected) - {REST} == (set(actual) & set(expected) if REST in expected else set(actual)), path
            for name in set(expected) - {REST}:
                if name not in VARYING:
                    self.same(expected[name], actual[name], f"{path}.{name}")
        elif isinstance(expected, list):
            assert isinstance(actual, list), path
            assert len(expected) == len(actual), path
            for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
                self.same(one, other, f"{path}[{index}]")
        elif isinstance(expected, str) and MADE.fullmatch(expected):
            assert self.known.setdefault(expected, actual) == actual, path
        elif path.endswith(("_at", ".received_at")) and isinstance(expected, int | float):
            assert type(expected) is type(actual), path
        else:
            assert expected == actual, path


def examples() -> Iterator[Example]:
    for kind, text in BLOCK.findall(TEXT):
        if kind == "websocket":
            yield Example("", "", "", text)
            continue
        for each in NEXT.split(text):
            request, _, answer = each.partition("\n\n")
            status, _, expected = answer.partition(" ")
            yield Example(request, status, expected, "")


async def run_example(here: World, example: Example, names: Names) -> None:
    if example.messages:
        await here.converse(names.translate(example.messages).splitlines())
        return
    head, _, body = names.translate(example.request).partition("{")
    first, *lines = head.strip().split("\n")
    method, path = first.split(" ")
    headers = dict(line.split(": ", 1) for line in lines)
    data = ("{" + body).encode() if body else None
    if not path.startswith("/v1/webhooks/"):
        headers["Authorization"] = f"Bearer {here.tokens['administrator'][1]}"
    response = await here.fetch(method, path, data, headers)
    text = response.body.decode()
    assert str(response.code) == example.status, text
    if text != example.expected:
        names.same(json.loads(example.expected), json.loads(text))


def test_the_examples_give_what_the_page_says(tmp_path: Path) -> None:
    """All of them, in their order, against one relay."""

    async def run() -> None:
        names = Names()
        async with world(tmp_path) as here:
            for example in examples():
                try:
                    await run_example(here, example, names)
                except AssertionError as error:
                    raise AssertionError(f"docs/rest.md, {example.request.splitlines()[0]}: {error}") from error

    asyncio.run(run())
    assert sum(bool(example.request) for example in examples()) == len(re.findall("^[A-Z]+ /", TEXT, re.MULTILINE))


def test_every_endpoint_is_shown() -> None:
    """Its method and path are a heading, or stand within the text, and it has an example; and no other is there."""
    told = set(re.findall(r"^### (GET|POST|PUT|DELETE) (/\S+)$", TEXT, re.MULTILINE))
    told |= set(re.findall(r"`(GET|POST|PUT|DELETE) (/v1/[^\s`]+)`", TEXT))
    assert told == set(ENDPOINTS)
    for method, path in told:
        request = re.sub(r"\\{\w+\\}", r"[^/?\\s]+", re.escape(path))
        assert re.search(rf"^{method} {request}[?\n]", TEXT, re.MULTILINE), f"{method} {path} has no example"


def test_every_status_is_named() -> None:
    """The statuses and codes that an error over REST may have."""

    def codes(kind: type[RelayError]) -> Iterator[tuple[int, str]]:
        yield kind.status, kind.code
        for each in kind.__subclasses__():
            yield from codes(each)

    own = {(s, c) for s, c in codes(RelayError) if s not in (500, 410) and c not in STARTUP}
    for status, code in own:
        assert re.search(rf"^\| {status} \|.*`{code}`", TEXT, re.MULTILINE), (
            f"docs/rest.md does not name {status} {code}"
        )
