"""The client's small parts: addresses, waits, acks, events' forms, the checkpoint's file and its saver."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.client import Backoff, FileCheckpoint, Headers, subscribe
from relay_tornado.client.acks import MEMORY, REMEMBERED, SURE, Acks
from relay_tornado.client.address import parse_address
from relay_tornado.client.checkpoint import MAX_SIZE, Saver
from relay_tornado.client.errors import CheckpointError
from relay_tornado.client.intake import Intake
from relay_tornado.client.messages import Malformed, decode, read_event
from tests.client.world import run
from tests.waiting import until


@pytest.mark.parametrize(
    ("url", "socket", "rest"),
    [
        ("https://relay.example", "wss://relay.example/v1/socket", "https://relay.example/v1"),
        ("http://relay.example:8080/", "ws://relay.example:8080/v1/socket", "http://relay.example:8080/v1"),
        ("wss://relay.example/v1/socket", "wss://relay.example/v1/socket", "https://relay.example/v1"),
        ("https://example.org/relay/v1", "wss://example.org/relay/v1/socket", "https://example.org/relay/v1"),
        ("ws://[::1]:80", "ws://[::1]:80/v1/socket", "http://[::1]:80/v1"),
    ],
)
def test_addresses(url: str, socket: str, rest: str) -> None:
    """Whatever form of the relay's URL one has, the socket and REST are found."""
    address = parse_address(url)
    assert (address.socket, address.rest) == (socket, rest)
    assert address.secure == socket.startswith("wss")
    assert address.local == ("::1" in url)


@pytest.mark.parametrize(
    "url",
    [
        "relay.example",
        "ftp://x",
        "https://",
        "https://u:p@x",
        "https://x?secret=1",
        "http://a\n",
        "http://a:99999",
        "http://a:port",
        "http://a:0",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    """They are refused at once, and with words."""
    with pytest.raises(ValueError, match="URL"):
        subscribe(url, "k", "s")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"extended": False, "since": "earliest"}, "since is an addition"),
        ({"extended": False, "on_gap": "fail"}, "on_gap is an addition"),
        ({"extended": False, "outputs": "none"}, "outputs is an addition"),
        ({"consumer": "c", "checkpoint": "x"}, "leave checkpoint out"),
        ({"ack_wait": 3}, "belongs to a consumer"),
        ({"on_gap": "resume"}, 'a function, or "fail"'),
        ({"ack": "explicit"}, "ack belongs to a consumer"),
        ({"ack": "receipt"}, "ack belongs to a consumer"),
        ({"consumer": "c", "ack": "never"}, "ack is one of 'explicit', 'receipt'"),
        ({"consumer": "c", "ack": "receipt", "ack_wait": 3}, "ack_wait is about acks"),
        ({"outputs": "some"}, "outputs is one of"),
        ({"buckets": [""]}, "buckets are names"),
        ({"buckets": ["a", 1]}, "buckets are names"),
        ({"buffer": 0}, "buffer is a whole number, 1 or more"),
        ({"buffer": 1.5}, "buffer is a whole number"),
        ({"max_message": 0}, "max_message is a whole number"),
        ({"max_body": -1}, "max_body is a whole number, 0 or more"),
        ({"consumer": "c", "max_in_flight": 0}, "max_in_flight is a whole number, 1 or more"),
        ({"consumer": "c", "ack_wait": "3"}, "ack_wait is a number of seconds"),
        ({"checkpoint_every": -1}, "checkpoint_every is a number of seconds"),
        ({"idle_timeout": float("nan")}, "idle_timeout is a number of seconds"),
    ],
)
def test_options_that_are_wrong_or_contradict_each_other(options: dict[str, object], words: str) -> None:
    """They are refused before anything is connected."""
    with pytest.raises(ValueError, match=words):
        subscribe("http://localhost", "k", "s", **options)  # type: ignore[arg-type]


def test_waits_grow_and_differ() -> None:
    """Each wait is a random part of a step that doubles up to the longest."""
    backoff = Backoff(first=1.0, factor=2.0, longest=10.0)  # floats overflow, which an int never does
    for failures, step in ((1, 1), (2, 2), (4, 8), (5, 10), (5000, 10)):
        delays = {backoff.delay(failures) for _ in range(50)}
        assert all(step * 0.2 <= delay <= step for delay in delays)
        assert len(delays) > 40


def test_headers() -> None:
    """Names count in any case; repeats keep their order; the form of the wire comes back."""
    headers = Headers({"X-A": ["1", "2"], "B": ["3"], "Empty": []})
    assert headers["x-a"] == "1"
    assert headers.get_all("X-a") == ("1", "2")
    assert headers.get("c") is None
    assert "b" in headers
    assert "empty" not in headers
    assert list(headers) == ["X-A", "B"]
    assert len(headers) == 2
    assert list(headers.pairs()) == [("X-A", "1"), ("X-A", "2"), ("B", "3")]
    assert headers.lists() == {"X-A": ["1", "2"], "B": ["3"], "Empty": []}
    assert "1" not in repr(headers)


def test_a_webhook_of_the_original_service() -> None:
    """Its frames have less, and ids of another form: what is missing is empty."""
    event = read_event(
        {
            "type": "webhook",
            "meta": {"id": "4b6e…", "bucked_id": "b", "bucket_name": "n", "input_id": "i", "output_name": "o"},
            "headers": {"X": ["1"], "Plain": "2", "None": None},
            "query": "a=b", "body": "caf\u00e9 \ud800", "method": "PUT",
        }
    )  # fmt: skip
    assert (event.id, event.seq, event.epoch, event.bucket_id, event.output) == ("4b6e…", 0, "", "b", "o")
    assert event.headers.lists() == {"X": ["1"], "Plain": ["2"]}
    assert event.body == b"caf\xc3\xa9 \xed\xa0\x80"
    assert event.received_at is None
    assert "caf" not in repr(event)


@pytest.mark.parametrize("text", ["", "[", "[]", "3", b"\xff", "[" * 100_000])
def test_what_is_no_message_is_said(text: str | bytes) -> None:
    """It may have been an event."""
    with pytest.raises(Malformed, match="JSON"):
        decode(text)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"meta": {}}, "without an id"), ({"meta": []}, "id"), ({"meta": {"id": "a"}, "body_base64": "eA"}, "base64")],
)
def test_an_event_that_is_none_is_said(fields: dict[str, Any], words: str) -> None:
    """It is neither left out nor given with another body."""
    with pytest.raises(Malformed, match=words):
        read_event({"type": "webhook", **fields})


def test_a_time_that_is_none() -> None:
    """An event is worth more than the time at which it came."""
    assert read_event({"meta": {"id": "a", "received_at": 10**400}}).received_at is None


# acks


def test_an_ack_goes_out_on_the_events_own_connection() -> None:
    """On it at once; after a cut it waits for the event, which is not given to the application again."""
    now = [0.0]
    acks = Acks(lambda: now[0])
    assert not acks.came("a", "orders")
    assert not acks.came("b", "orders")
    assert acks.ack("a", False) == '{"action":"ack","id":"a"}'
    now[0] += SURE + 1
    acks.cut()
    assert acks.ack("b", False) is None
    assert acks.late() == []
    assert acks.came("b", "orders")
    assert acks.late() == ['{"action":"ack","id":"b"}']
    assert acks.late() == []
    # Long ago it was acknowledged, so the relay means it.
    assert not acks.came("a", "orders")
    assert not acks.came("b", "orders")


def test_an_ack_just_before_a_cut_is_said_again() -> None:
    """The relay may not have had it."""
    now = [0.0]
    acks = Acks(lambda: now[0])
    acks.came("a", "orders")
    acks.ack("a", False)
    for _ in range(2):
        acks.cut()
        acks.cut()
        now[0] += MEMORY - 1
        assert acks.came("a", "orders")
    acks.cut()
    now[0] += MEMORY + 1
    assert not acks.came("a", "orders")


def test_acks_of_a_long_silence_are_said_again() -> None:
    """However long it was: the relay had none of them. The newest are remembered, and all of the last seconds."""
    now = [0.0]
    acks = Acks(lambda: now[0])
    for each in range(2 * REMEMBERED):
        acks.came(str(each), "orders")
        acks.ack(str(each), False)
    now[0] += 6 * SURE
    acks.came("last", "orders")
    acks.ack("last", False)
    acks.cut(7 * SURE)
    assert not acks.came("0", "orders")
    assert acks.came(str(2 * REMEMBERED - 1), "orders")
    assert acks.came("last", "orders")


def test_what_comes_again_after_everything_came_is_meant() -> None:
    """Once the relay has caught up, in this bucket, an ack from before the cut is said for nothing any more."""
    acks = Acks()
    for each, bucket in (("a", "orders"), ("b", "orders"), ("c", "others")):
        acks.came(each, bucket)
        acks.ack(each, False)
    acks.cut()
    assert acks.came("a", "orders")
    acks.caught_up("orders")
    assert not acks.came("b", "orders")
    assert acks.came("c", "others")


def test_what_a_dead_connection_held_is_acknowledged_again() -> None:
    """Where the relay took it for alive until after the bucket was caught up with: what was out there comes as one more
    attempt. What the application was given since is its own again."""
    now = [0.0]
    acks = Acks(lambda: now[0])
    for each in "abc":
        acks.came(each, "orders")
        acks.ack(each, False)
    acks.cut()
    acks.caught_up("orders")
    assert acks.came("a", "orders", 2)
    assert acks.late() == ['{"action":"ack","id":"a"}']
    assert not acks.came("b", "orders", 1)
    assert not acks.came("b", "orders", 2)
    acks.cut()
    now[0] += MEMORY + 1
    assert not acks.came("c", "orders", 2)


def test_what_the_relay_knows_and_sends_again_is_meant() -> None:
    """Its consumer was moved back while nobody was connected: so what follows is meant, too, in this bucket."""
    now = [0.0]
    acks = Acks(lambda: now[0])
    for each, bucket in (("a", "orders"), ("z", "others")):
        acks.came(each, bucket)
        acks.ack(each, False)
    now[0] += SURE + 1
    for each, bucket in (("b", "orders"), ("c", "orders"), ("y", "others")):
        acks.came(each, bucket)
        acks.ack(each, False)
    acks.cut()
    for each in "abc":
        assert not acks.came(each, "orders")
    assert acks.late() == []
    assert acks.came("y", "others")
    for each in range(2 * REMEMBERED):
        acks.came(str(each), "orders")
        acks.ack(str(each), False)
    now[0] += SURE + 1
    acks.cut()
    assert len(acks._known) == REMEMBERED


def test_an_ack_after_a_cut_is_of_its_event_alone() -> None:
    """Not of what came before it; nor is one that was given back acknowledged by what follows."""
    acks = Acks()
    for each in "abc":
        acks.came(each, "orders")
    acks.cut()
    assert acks.nak("c", None) is None
    for each in "bc":
        assert acks.ack(each, False) is None
    assert not acks.came("a", "orders")
    assert acks.came("b", "orders")
    assert not acks.came("c", "orders")


def test_everything_is_what_came_before_on_this_connection() -> None:
    """In the order in which it came the last time, less what was given back since."""
    acks = Acks()
    for each in "abcda":
        acks.came(each, "orders")
    assert acks.nak("b", None) == '{"action":"nak","id":"b"}'
    assert acks.ack("c", True) == '{"action":"ack","id":"c","all":true}'
    acks.cut()
    assert acks.came("c", "orders")
    for each in "abd":
        assert not acks.came(each, "orders")


def test_acks_of_everything_and_naks() -> None:
    """With everything, what came before is acknowledged, too; a nak after a cut says nothing."""
    acks = Acks()
    for each in "abcd":
        acks.came(each, "orders")
    assert acks.ack("b", True) == '{"action":"ack","id":"b","all":true}'
    assert acks.nak("c", 5) == '{"action":"nak","id":"c","delay":5}'
    acks.came("e", "orders")
    acks.cut()
    assert acks.nak("e", None) is None
    assert acks.ack("d", True) is None
    assert acks.came("a", "orders")
    assert acks.came("b", "orders")
    assert acks.came("d", "orders")
    assert not acks.came("e", "orders")
    assert acks.ack("never", False) is None


# the intake


def test_the_intake_is_bounded() -> None:
    """A writer waits while it is full; a reader that is cancelled takes nothing."""

    async def main() -> None:
        intake: Intake[str] = Intake(10)
        intake.put("a", 10)
        assert intake.full
        waiting = asyncio.create_task(intake.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert await intake.first() == "a"
        assert await intake.first() == "a"
        assert intake.take("a")
        await waiting
        first = asyncio.create_task(intake.first())
        await asyncio.sleep(0)
        first.cancel()
        intake.put("b", 1)
        intake.put("c", 2)
        intake.drop(lambda item: item == "b")
        assert not intake.take("b")
        assert (await intake.first(), intake.size, len(intake)) == ("c", 2, 1)

    run(main())


# the checkpoint


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """It is its owner's alone, follows a link to where it points, and leaves no draft behind."""
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real / "checkpoint")
    checkpoint = FileCheckpoint(link)
    assert checkpoint.load_now() is None
    (real / ".checkpoint.new").write_text("left over")
    for text in ("one", "two"):
        checkpoint.save_now(text)
        assert checkpoint.load_now() == text
    assert link.is_symlink()
    assert [each.name for each in real.iterdir()] == ["checkpoint"]
    assert (real / "checkpoint").stat().st_mode & 0o777 == 0o600


def test_a_draft_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """Whoever puts a link where the draft goes does not get a file written elsewhere."""
    (tmp_path / "other").write_text("untouched")
    (tmp_path / ".checkpoint.new").symlink_to(tmp_path / "other")
    FileCheckpoint(tmp_path / "checkpoint").save_now("text")
    assert (tmp_path / "other").read_text() == "untouched"


def test_what_is_no_file_of_a_checkpoint_is_not_read(tmp_path: Path) -> None:
    """Neither a device, which may never end, nor a pipe, nor a file that is far too large."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", MAX_SIZE + 1)
    for path, words in (("/dev/null", "no regular"), (tmp_path / "pipe", "no regular"), (tmp_path / "large", "large")):
        with pytest.raises(ValueError, match=words):
            FileCheckpoint(path).load_now()


WRITER = """
import sys
from relay_tornado.client import FileCheckpoint
checkpoint = FileCheckpoint(sys.argv[1])
print("begun", flush=True)
number = 0
while True:
    number += 1
    checkpoint.save_now(f"{number} " * 2000)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    """Whenever it is killed, the file holds one text, from its beginning to its end."""
    path = tmp_path / "checkpoint"
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline()
            while not path.exists():
                pass
            os.kill(writer.pid, signal.SIGKILL)
        words = path.read_text().split()
        assert len(words) == 2000
        assert len(set(words)) == 1


class Slow:
    """A checkpoint whose saves end when they are told to."""

    def __init__(self) -> None:
        self.saved: list[str] = []
        self.go = asyncio.Event()

    def load(self) -> str | None:
        return None

    async def save(self, text: str) -> None:
        await self.go.wait()
        if text == "bad":
            raise OSError("no")
        self.saved.append(text)


def test_saves_gather() -> None:
    """While one save runs, all changes wait for the next one; a cancelled wait breaks none off."""

    async def main() -> None:
        slow, text = Slow(), "0"
        saver = Saver(slow, lambda: text, 0)
        await saver.flush()
        flushes = []
        for number in range(1, 6):
            text = str(number)
            saver.moved()
            flushes.append(asyncio.create_task(saver.flush()))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        flushes[0].cancel()
        await asyncio.sleep(0)
        assert slow.saved == []
        slow.go.set()
        await asyncio.gather(*flushes, return_exceptions=True)
        assert slow.saved == ["1", "5"]
        text = "bad"
        saver.moved()
        with pytest.raises(CheckpointError, match="no"):
            await saver.flush()
        text = "good"
        await saver.close()
        assert slow.saved == ["1", "5", "good"]

    run(main())


def test_saves_can_be_put_off() -> None:
    """With an interval nobody waits for a save; the last state is saved at the end all the same, or it is told."""

    async def main() -> None:
        slow, text = Slow(), "1"
        slow.go.set()
        saver = Saver(slow, lambda: text, 3600)
        saver.moved()
        await saver.flush()
        text = "2"
        saver.moved()
        await saver.flush()
        for _ in range(10):
            await asyncio.sleep(0)
        assert slow.saved == []
        await saver.close()
        assert slow.saved == ["2"]
        text = "bad"
        saver = Saver(slow, lambda: text, 3600)
        saver.moved()
        await saver.flush()
        with pytest.raises(CheckpointError, match="no"):
            await saver.close()

    run(main())


def test_what_changes_during_a_save_that_was_put_off_is_saved_after_it() -> None:
    """Nobody waits for it, and nobody asks again."""

    async def main() -> None:
        slow, asked, text = Slow(), [], "1"

        def current() -> str:
            asked.append(text)
            return text

        saver = Saver(slow, current, 0.001)
        saver.moved()
        await saver.flush()
        task = saver._task
        assert task is not None
        await until(lambda: asked, "the first save")
        text = "2"
        saver.moved()
        await saver.flush()
        slow.go.set()
        await until(lambda: slow.saved == ["1", "2"], "both saves")
        assert saver._task is task

    run(main())
