"""docs/protocol.md: its examples are what the code reads and writes, and it names what there is."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from relay_tornado.consumer_progress import WINDOW
from relay_tornado.errors import CloseCode, NoSpace, Overloaded, Unavailable, Unknown
from relay_tornado.log.consumers import Terms
from relay_tornado.model import Bucket, Event, Gap, GapReason
from relay_tornado.storage.piggyback import DELAY
from relay_tornado.wire import control, frames
from relay_tornado.wire.acks import MAX_DELAY

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


def examples() -> list[dict[str, Any]]:
    """Every object in a block of JSON; one block may hold several."""
    found = []
    for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL):
        rest = block.strip()
        while rest:
            document, end = json.JSONDecoder().raw_decode(rest)
            found.append(document)
            rest = rest[end:].strip()
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("message", [each for each in EXAMPLES if "action" in each], ids=json.dumps)
def test_client_messages_are_understood(message: dict[str, Any]) -> None:
    """Every message that a client is told to send is one."""
    incoming = control.parse(json.dumps(message))
    assert not isinstance(incoming.content, control.Problem)


def shape(document: Any) -> Any:
    """The keys of a document, all the way down, in their order; `positions` are by name."""
    if isinstance(document, dict):
        return [(key, key == "positions" or shape(value)) for key, value in document.items()]
    return [shape(each) for each in document] if isinstance(document, list) else type(document).__name__


BUCKET = Bucket("b", "orders", 0, 0)
EVENT = Event(
    60, "k3v9x1q7m2ab", 1.5, "i", "POST", b"/extra", b"foo=bar",
    b"Content-Type: application/json\r\nX-Repeated: one\r\nX-Repeated: two\r\n", b'{"n": 1}', "192.0.2.1",
)  # fmt: skip
ENTRY = {"bucket_id": "b", "bucket_name": "orders", "epoch": "e", "first": 1, "head": 60, "start": 43}
CONSUMER = {"name": "w", "ack": "explicit", "floor": "e-42", "pending": 18, "ack_wait": 30.0, "max_deliver": 5}
MADE = [
    frames.AUTHENTICATED,
    frames.PING,
    frames.subscribed(["orders"]),
    frames.subscribed(["orders"], [ENTRY | {"recovered": True, "gap": None}, {"bucket_name": "x", "error": "y"}]),
    frames.subscribed(["orders"], [ENTRY | {"recovered": True, "gap": None, "consumer": CONSUMER}]),
    frames.unauthorized("words"),
    frames.unsubscribed(["orders"]),
    frames.responded("k3v9x1q7m2ab-60-2"),
    frames.error("invalid", "words"),
    frames.ping({"orders": "k3v9x1q7m2ab-60"}),
    frames.caught_up("orders", "k3v9x1q7m2ab-60"),
    frames.gap("orders", Gap("retention", 12, 40)),
    frames.bucket_deleted("orders", "4f6a"),
    frames.consumer_deleted("orders", "worker"),
    frames.webhook(EVENT, BUCKET, "Default public endpoint"),
]


def test_server_frames_are_shown_as_they_are() -> None:
    """Each frame that the code makes has its example, key for key, and each example is of such a frame."""
    shown = [shape(each) for each in EXAMPLES if "type" in each]
    made = [shape(json.loads(payload)) for payload in MADE]
    assert [each for each in made if each not in shown] == []
    assert [each for each in shown if each not in made] == []


def test_the_limits_of_consumers_are_told() -> None:
    """As the code has them."""
    for number in (control.MAX_CONSUMER, control.MAX_IN_FLIGHT, control.MAX_DELIVER, control.MAX_ACK_WAIT):
        assert f"{number:,}" in TEXT
    assert control.MAX_ACK_WAIT == MAX_DELAY
    assert f"| {control.IN_FLIGHT} |" in TEXT
    assert f"unchanged; {Terms().ack_wait:.0f} for a new consumer" in TEXT
    assert f"unchanged; {Terms().max_deliver} for a new consumer" in TEXT
    assert f"At most {WINDOW:,} seqs" in TEXT
    assert f"within {DELAY * 1000:.0f} ms" in TEXT


def test_every_close_code_is_documented() -> None:
    """Each has its row, and what is final is said to be."""
    for name, code in vars(CloseCode).items():
        if isinstance(code, int) and not name.startswith("_"):
            row = re.search(rf"^\| {code} \|.*\| (yes|no) \|$", TEXT, re.MULTILINE)
            assert row, f"{name} {code} has no row in docs/protocol.md"
            assert (row[1] == "yes") == (code == 4001 or 4500 <= code <= 4999)


def test_every_error_and_gap_is_documented() -> None:
    """Codes and reasons stand in their tables."""
    for word in ("invalid", "unknown_action", "not_found", "conflict", "ephemeral", *get_args(GapReason)):
        assert f"`{word}`" in TEXT
    for error in (Unavailable, Overloaded, NoSpace, Unknown):
        assert f"`{error.code}`" in TEXT
