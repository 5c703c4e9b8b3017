"""Bodies and headers come out as they went in, through the socket of a real relay."""

import asyncio
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.acceptance.clients import Sender, Subscriber, webhook
from tests.acceptance.relay import Relay

BATCH = 40
NOT_DELIVERED = {
    "host", "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade", "content-length", "expect",
}  # fmt: skip

PRINTABLE = bytes([9, *range(0x20, 0x7F), *range(0x80, 0x100)])

names = st.text(string.ascii_letters + string.digits + "-_.!#$%&'*+^`|~", min_size=1, max_size=12)
unicode = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20).map(str.encode)
values = st.one_of(st.lists(st.sampled_from(PRINTABLE), max_size=40).map(bytes), unicode).map(bytes.strip)
headers = st.lists(st.tuples(names.filter(lambda name: name.lower() not in NOT_DELIVERED), values), max_size=6)
bodies = st.one_of(st.binary(max_size=2000), st.text(max_size=500).map(str.encode), st.just(b""))


def canonical(name: str) -> str:
    """Go's canonical form of a header's name."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


def text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, str, tuple[str, str]]]:
    """One relay for all examples: its bucket's path, and a token."""
    with Relay(tmp_path_factory.mktemp("exact") / "data") as relay:
        yield relay, relay.create_bucket("orders"), relay.create_token()


@given(batch=st.lists(st.tuples(bodies, headers), min_size=1, max_size=BATCH))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_bytes_in_are_bytes_out(
    shared: tuple[Relay, str, tuple[str, str]], batch: list[tuple[bytes, list[tuple[str, bytes]]]]
) -> None:
    """Any body arrives byte-exact, and every header's values arrive exactly, in order and with their repeats."""
    relay, path, token = shared

    async def run() -> None:
        async with Subscriber(relay, token, "orders", "latest") as subscriber, Sender(relay, path) as sender:
            assert await subscriber.until_caught_up() == []
            for body, lines in batch:
                raw = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in lines)
                assert await sender.post(body, raw) == 200
                frame = await subscriber.receive()
                assert webhook(frame).body == body
                assert ("body_base64" in frame) == (text(body).encode() != body)
                expected: dict[str, list[str]] = {}
                for name, value in lines:
                    expected.setdefault(canonical(name), []).append(text(value))
                found = {name: values for name, values in frame["headers"].items() if name != "Content-Length"}
                assert found == expected

    asyncio.run(run())


def test_a_large_body(shared: tuple[Relay, str, tuple[str, str]]) -> None:
    """A body of the largest size, of every byte value, arrives; one byte more is refused."""
    relay, path, token = shared
    body = (bytes(range(256)) * 12288)[: 3 << 20]

    async def run() -> None:
        async with Subscriber(relay, token, "orders", "latest") as subscriber:
            assert await subscriber.until_caught_up() == []
            async with Sender(relay, path) as sender:
                assert await sender.post(body) == 200
            async with Sender(relay, path) as sender:
                sender.writer.write(sender.head(len(body) + 1))
                assert await sender.answer() == 413
            assert webhook(await subscriber.receive()).body == body

    asyncio.run(run())


def test_the_folder_of_the_data_is_private(tmp_path: Path) -> None:
    """What the relay stores is readable by its owner only, whatever the umask is."""
    with Relay(tmp_path / "data") as relay:
        relay.create_bucket("orders")
        open_to_others = [path for path in (tmp_path / "data").iterdir() if path.stat().st_mode & 0o077]
        assert not open_to_others
