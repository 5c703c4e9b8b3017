"""relay_tornado/wire/shapes.py: what it renders is what the plain way renders, whatever came before."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_tornado.wire import shapes
from relay_tornado.wire.headers import for_frame

BLOCK = b"Host: a\r\nUser-Agent: b\r\nX-GitHub-Delivery: 1\r\nconnection: close\r\nContent-Length: 3\r\n"


def plain(block: bytes) -> tuple[bytes, bytes]:
    shown, host = for_frame(block)
    return msgspec.json.encode(shown), msgspec.json.encode(host)


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    shapes._shapes.clear()


def test_a_sender_that_changes_some_values() -> None:
    """Blocks of one shape are rendered from the lines that changed."""
    for number in range(20):
        block = BLOCK.replace(b"Delivery: 1", b"Delivery:  %d " % number)
        rendered, host = shapes.render("i", block)
        assert (rendered, host) == plain(block)
        assert json.loads(rendered)["X-Github-Delivery"] == [str(number)]
    (shape,) = shapes._shapes.values()
    assert shape.misses == 1


@pytest.mark.parametrize(
    "block",
    [
        BLOCK.replace(b"Host: a", b"Host: other"),
        BLOCK.replace(b"close", b"Content-Length"),
        BLOCK.replace(b"close", b"keep-alive"),
        BLOCK.replace(b"User-Agent: b", b"Content-Length: b"),
        BLOCK.replace(b"User-Agent: b", b"User-Agent-B: b"),
        BLOCK.replace(b"User-Agent: b", b"User-Agent: caf\xc3\xa9"),
        BLOCK.replace(b"User-Agent: b", b"User-Agent: caf\xe9"),
        BLOCK.replace(b"User-Agent: b", b"User-Agent: b\n folded"),
        BLOCK.replace(b"User-Agent: b\r\nX", b"User-Agent: b\r\n X"),
        BLOCK.replace(b"User-Agent: b", b"User-Agent: b\nX-New: 1"),
        BLOCK.replace(b"User-Agent: b", b"User-Agent: b\rX-New: 1"),
        BLOCK.replace(b"User-Agent: b", b"User-Agent : b"),
        BLOCK.replace(b"User-Agent: b", b"no colon"),
        BLOCK.replace(b"User-Agent: b", b'User-Agent: "b\\'),
        BLOCK.replace(b"User-Agent: b", b"User-Agent:\tb\x00\x7f"),
        BLOCK.replace(b"User-Agent: b", b": no name"),
        BLOCK.replace(b"\r\n", b"\n"),
        BLOCK[:-2],
        BLOCK + b"More: 1\r\n",
        b"",
        b"\r\n\r\n\r\n\r\n\r\n",
    ],
    ids=repr,
)
def test_a_block_that_is_not_plain_is_read_whole(block: bytes) -> None:
    """Before and after a plain one of as many lines."""
    for each in (BLOCK, block, BLOCK, block, block):
        assert shapes.render("i", each) == plain(each)
    shapes._shapes.clear()
    for each in (block, block, BLOCK, block):
        assert shapes.render("i", each) == plain(each)


@pytest.mark.parametrize(
    "blocks",
    [
        (b"A: 1\r\nA: 2\r\n", b"A: 1\r\nA: 3\r\n"),
        (b"A: 1\r\na: 2\r\n", b"A: 1\r\na: 3\r\n"),
        (b"Connection: A\r\nA: 2\r\n", b"Connection: A\r\nA: 3\r\n"),
        (b"A: 2\r\nConnection: close, A\r\n", b"A: 3\r\nConnection: close, A\r\n"),
    ],
    ids=repr,
)
def test_what_counts_beyond_its_line_is_read_whole(blocks: tuple[bytes, bytes]) -> None:
    """Names that repeat, and a Connection that names others."""
    for block in (*blocks, *blocks):
        assert shapes.render("i", block) == plain(block)


def test_memory_of_shapes_is_bounded() -> None:
    """So many shapes, of blocks of a few kilobytes."""
    for number in range(1000):
        shapes.render(f"i{number}", BLOCK)
    shapes.render("long", b"X: " + b"x" * 5000 + b"\r\n")
    assert len(shapes._shapes) <= 256
    assert not shapes._shapes["long", 1].lines


LINES = st.sampled_from(
    [
        b"Host: a", b"Host: b", b"A: 1", b"A: 2", b"a:3", b"B: x", b"B: \xe9", b"B: \xc3\xa9", b"B:", b"B", b": x",
        b" fold", b"\tfold", b"Connection: close", b"Connection: A", b"connection: B, a", b"Te: x", b"Upgrade: y",
        b"B: \n x", b"B: \n", b"B: \r", b"B : x", b'B: "\\\x00\x7f', b"", b"A:  1\t",
    ]
)  # fmt: skip
BLOCKS = st.lists(st.lists(LINES, min_size=2, max_size=5).map(lambda lines: b"".join(line + b"\r\n" for line in lines)))


@given(BLOCKS)
def test_rendering_is_the_same_as_without_memory(blocks: list[bytes]) -> None:
    """Any sequence of blocks on one input comes out as if each were the first."""
    shapes._shapes.clear()
    for block in blocks:
        for _ in range(2):
            assert shapes.render("i", block) == plain(block)
