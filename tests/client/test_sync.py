"""The synchronous client against a real relay."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from relay_tornado.client import CheckpointError, Notice, Refused, RelayClientError
from relay_tornado.client.sync import Subscription, subscribe
from tests.acceptance.relay import wait_for
from tests.client.world import SOON, TIMEOUT, World


def at(world: World, bucket: str, **options: object) -> Subscription:
    return subscribe(world.relay.url, world.key, world.secret, buckets=bucket, backoff=SOON, **options)


def test_a_plain_loop(shared: World, tmp_path: Path) -> None:
    """`with` and `for`; answers and the checkpoint as in the asynchronous client; no thread stays."""
    bucket = shared.bucket()
    shared.send("1", "2", "3", bucket=bucket)
    before = set(threading.enumerate())
    got = []
    for expected in (["1", "2"], ["2", "3"]):
        with at(shared, bucket, since="earliest", checkpoint=tmp_path / "place") as events:
            got = [next(events), next(events)]
            assert [event.text for event in got] == expected
            got[-1].respond(202, "fine")
    wait_for(lambda: set(threading.enumerate()) <= before, "the threads that looked a name up to end, too")
    assert shared.relay.command("logs", "show", got[-1].id)["status_code"] == 202
    with at(shared, bucket, checkpoint=tmp_path / "place", auto_done=False) as events:
        next(events).done()
    with at(shared, bucket, checkpoint=tmp_path / "place") as events, pytest.raises(TimeoutError):
        events.next(timeout=0.3)


def test_acks(shared: World) -> None:
    """What is acknowledged does not come again; what is given back does, at once or later."""
    bucket = shared.bucket()
    shared.send("1", "2", "3", bucket=bucket)
    with at(shared, bucket, since="earliest", consumer="worker") as events:
        one, two, three = next(events), next(events), next(events)
        two.nak(0.01)
        again = next(events)
        assert (again.text, again.attempt) == ("2", 2)
        one.nak()
        assert next(events).text == "1"
        three.ack(everything=True)
    shared.send("4", bucket=bucket)
    with at(shared, bucket, consumer="worker") as events:
        assert [next(events).text for _ in range(3)] == ["1", "2", "4"]


def test_errors_come_out(shared: World) -> None:
    """What the asynchronous client raises, this one does; wrong arguments at once."""
    with subscribe(shared.relay.url, shared.key, "wrong") as events, pytest.raises(Refused):
        next(events)
    with pytest.raises(ValueError, match="URL"):
        subscribe("nonsense")
    with pytest.raises(TypeError):
        subscribe("http://localhost", nonsense=1)


def test_a_timeout_loses_nothing(shared: World) -> None:
    """What comes while nobody waits is the next call's."""
    bucket = shared.bucket()
    with at(shared, bucket, since="earliest") as events:
        for number in range(5):
            with pytest.raises(TimeoutError):
                events.next(timeout=0.001)
            shared.send(str(number), bucket=bucket)
            event = events.next(timeout=TIMEOUT)
            assert event is not None
            assert event.text == str(number)


def test_an_event_that_comes_while_it_is_asked_for_again_takes_no_room(shared: World) -> None:
    """One that was known just before the loop heard of the second call was kept until the end."""
    bucket = shared.bucket()
    with at(shared, bucket, since="earliest") as events:
        with pytest.raises(TimeoutError):
            events.next(timeout=0.001)
        loop, asked = events._loop, events._asked
        assert loop is not None
        assert asked is not None
        shared.send("1", bucket=bucket)
        asked.wait(TIMEOUT)
        loop._open.add(asked)  # as `begin` does if it looked whether it is known a moment ago
        loop._loop.call_soon_threadsafe(asked.begin, loop._open.discard)
        event = events.next(timeout=TIMEOUT)
        assert event is not None
        loop.run(event._event.done)
        assert asked not in loop._open


class Failing:
    """A checkpoint whose first saves after the beginning fail."""

    def __init__(self) -> None:
        self.saves = 0

    def load(self) -> None:
        return None

    def save(self, text: str) -> None:
        self.saves += 1
        if self.saves in (2, 3):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_an_error_that_passes_is_told_once(shared: World) -> None:
    """What a checkpoint can't save, the next call tries again; nothing is lost by it."""
    bucket = shared.bucket()
    shared.send("1", "2", bucket=bucket)
    got: list[str] = []
    errors = 0
    with at(shared, bucket, since="earliest", checkpoint=Failing()) as events:
        while len(got) < 2 and errors < 9:
            try:
                got.append(next(events).text)
            except CheckpointError:
                errors += 1
    assert (got, errors) == (["1", "2"], 2)


def test_it_can_be_closed_from_another_thread(shared: World) -> None:
    """A loop that waits ends then; the events' methods say that it is closed."""
    bucket = shared.bucket()
    shared.send("1", bucket=bucket)
    events = at(shared, bucket, since="earliest")
    event = next(events)
    closing = threading.Timer(0.1, events.close)
    closing.start()
    assert list(events) == []
    closing.join()
    events.close()
    assert list(events) == []
    with pytest.raises(RelayClientError, match="closed"):
        event.respond()


def test_what_it_calls_back_can_not_wait_for_it(shared: World) -> None:
    """It runs in the loop's thread: what would wait there for ever says so."""
    bucket = shared.bucket()
    said: list[str] = []

    def close(notice: Notice) -> None:
        for wait in (events.close, events.next):
            try:
                wait()
            except RelayClientError as error:
                said.append(str(error))

    events = at(shared, bucket, since="earliest", on_notice=close)
    with events:
        shared.send("1", bucket=bucket)
        assert next(events).text == "1"
    assert len(said) >= 2
    assert all("can't wait" in each for each in said)


INTERRUPTED = """
import signal, sys
from relay_tornado.client.sync import subscribe
with subscribe(*sys.argv[1:4], buckets=sys.argv[4], since="earliest", checkpoint=sys.argv[5]) as events:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT] * int(sys.argv[6]))
    try:
        for event in events:
            print(event.text, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize("elsewhere", [0, 1])
def test_an_interrupt_ends_the_wait(shared: World, tmp_path: Path, elsewhere: int) -> None:
    """Ctrl-C comes out of the loop, and the process ends in order, also where the system has another thread take it."""
    bucket = shared.bucket()
    shared.send("1", bucket=bucket)
    arguments = (shared.relay.url, shared.key, shared.secret, bucket, tmp_path / "place", elsewhere)
    command = [sys.executable, "-W", "error", "-c", INTERRUPTED, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)
