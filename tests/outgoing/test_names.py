"""relay_tornado/outgoing/names.py: a name whose answer never comes is looked up anew, and holds up no others."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from relay_tornado.outgoing import names
from relay_tornado.outgoing.names import Resolver
from relay_tornado.outgoing.transport import Transport
from tests.descriptors import without_descriptors
from tests.outgoing.requests import BOUNDS, send
from tests.waiting import until


@pytest.mark.gen_test
async def test_an_answer_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there was no memory to give it, whoever asks gets an error, and the next one an answer."""

    def lose(*_: Any) -> NoReturn:
        raise MemoryError

    loop, lost = asyncio.get_running_loop(), threading.Event()
    resolver = Resolver()
    with monkeypatch.context() as patch:
        patch.setattr(names, "_LONGEST", 0.05)
        patch.setattr(loop, "call_soon_threadsafe", lose)
        patch.setattr("sys.unraisablehook", lambda _: lost.set())  # the last thing that the thread does
        with pytest.raises(OSError, match=r"not found within 0\.05 seconds"):
            await asyncio.wait_for(resolver.resolve("localhost", 80), 20)
        await until(lost.is_set)  # the thread may be slower than that
    assert await resolver.resolve("localhost", 80)
    resolver.close()


@pytest.mark.gen_test
async def test_no_descriptor_for_a_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A C library that could not read its configuration says that nobody knows the name."""

    def unknown(*_: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(names, "_lookup", unknown)
    resolver = Resolver()
    with without_descriptors(), pytest.raises(OSError, match="Too many open files"):
        await resolver.resolve("localhost", 80)
    with pytest.raises(socket.gaierror):
        await resolver.resolve("localhost", 80)
    resolver.close()


class _Names:
    """Looks names up: those that begin with `slow` when the gate is open, the others at once."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked: list[str] = []

    def look_up(self, host: str, port: int, flags: int) -> list[names.Socket]:
        if flags:
            raise socket.gaierror("a name")
        self.asked.append(host)
        if host.startswith("slow"):
            self.gate.wait(60)
        return [(socket.AF_INET, ("192.0.2.1", port))]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Names]:
    """Two look-ups at once, and two of slow names."""
    made = _Names()
    monkeypatch.setattr(names, "_lookup", made.look_up)
    monkeypatch.setattr(names, "_LOOKUPS", 2)
    monkeypatch.setattr(names, "_SLOW", 0.05)
    yield made
    made.gate.set()


@pytest.mark.gen_test
async def test_names_that_hang_hold_up_no_others(known: _Names) -> None:
    """Neither those that are looked up for the first time nor, however many they are, those that are known for it."""
    resolver = Resolver()
    hanging = [asyncio.create_task(resolver.resolve(f"slow-{n}", 80)) for n in range(2)]
    await until(lambda: len(known.asked) == 2)
    assert await asyncio.wait_for(resolver.resolve("quick", 80), 20)
    await until(lambda: {"slow-0", "slow-1"} <= set(resolver._slow))
    known.gate.set()
    await asyncio.gather(*hanging)
    known.gate.clear()
    hanging = [asyncio.create_task(resolver.resolve(f"slow-{n}", 80)) for n in (0, 1, 0, 1)]
    await until(lambda: len(known.asked) == 5)
    hanging += [asyncio.create_task(resolver.resolve(f"slow-{n}", 443)) for n in range(2)]
    assert await asyncio.wait_for(resolver.resolve("quick-too", 80), 20)
    assert len(known.asked) == 6
    known.gate.set()
    await asyncio.gather(*hanging)
    resolver.close()


@pytest.mark.gen_test
async def test_a_name_that_turns_out_slow_is_answered_whatever_hangs(
    known: _Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if as many slow names hang as may be looked up at once."""
    answered = threading.Event()

    def look_up(*asked: Any) -> list[names.Socket]:
        found = known.look_up(*asked)
        if asked[0] == "late":
            answered.wait(60)
        return found

    monkeypatch.setattr(names, "_lookup", look_up)
    resolver = Resolver()
    hanging = [asyncio.create_task(resolver.resolve(f"slow-{n}", 80)) for n in range(2)]
    await until(lambda: len(resolver._slow) == 2)
    late = asyncio.create_task(resolver.resolve("late", 80))
    await until(lambda: "late" in resolver._slow)
    answered.set()
    assert await asyncio.wait_for(late, 20)
    known.gate.set()
    await asyncio.gather(*hanging)
    resolver.close()


@pytest.mark.gen_test
async def test_who_waits_no_more_leaves_the_answer_to_others(known: _Names) -> None:
    """One look-up is for all who ask meanwhile."""
    resolver = Resolver()
    impatient, patient = (asyncio.create_task(resolver.resolve("slow", 80)) for _ in range(2))
    await until(lambda: known.asked)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    known.gate.set()
    assert await patient
    assert known.asked == ["slow"]
    resolver.close()


@pytest.mark.gen_test
async def test_a_name_that_is_quick_again(known: _Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its place among the others again."""
    resolver = Resolver()
    hanging = asyncio.create_task(resolver.resolve("slow", 80))
    await until(lambda: "slow" in resolver._slow)
    known.gate.set()
    await hanging
    assert "slow" in resolver._slow
    monkeypatch.setattr(names, "_SLOW", 20.0)
    await resolver.resolve("slow", 80)
    assert not resolver._slow
    resolver.close()


@pytest.mark.gen_test
async def test_slow_names_are_forgotten(known: _Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first, beyond a bound."""
    monkeypatch.setattr(names, "_MOST_SLOW", 1)
    resolver = Resolver()
    hanging = [asyncio.create_task(resolver.resolve("slow-1", 80))]
    await until(lambda: list(resolver._slow) == ["slow-1"])
    hanging.append(asyncio.create_task(resolver.resolve("slow-2", 80)))
    await until(lambda: list(resolver._slow) == ["slow-2"])
    known.gate.set()
    await asyncio.gather(*hanging)
    resolver.close()


@pytest.mark.gen_test
async def test_a_transport_that_is_closed_leaves_no_look_up(known: _Names) -> None:
    """Whoever asked has left; the look-up is for all who ask, so it ends with the transport."""
    resolver = Resolver()
    made = Transport(resolver, BOUNDS)
    sending = asyncio.create_task(send(made, "http://slow/"))
    await until(lambda: known.asked)
    sending.cancel()
    await asyncio.wait((sending,))
    (pending,) = resolver._pending.values()
    await made.close()
    await asyncio.wait((pending,))
    assert pending.cancelled()
