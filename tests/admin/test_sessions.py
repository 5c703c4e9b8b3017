"""Sessions of the page: what begins one, what ends it, and that neither a restart nor a full house confuses them."""

from __future__ import annotations

import dataclasses
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.admin import sessions as module
from relay_tornado.admin.sessions import CODE_LIFE, LIFE, NAME, Sessions
from relay_tornado.admin.tokens import new_token, rotated_token
from relay_tornado.errors import Unauthorized
from relay_tornado.model import Token
from relay_tornado.registry.memory import MemoryRegistry
from tests.acceptance.relay import TIMEOUT
from tests.storage.faults import no_threads
from tests.waiting import until

NOW = 1_800_000_000.0


class World:
    """Sessions over a registry, a file and a clock that is set by hand."""

    def __init__(self, folder: Path) -> None:
        self.now = NOW
        self.registry = MemoryRegistry()
        self.path = folder / NAME
        self.sessions = self.open()

    def open(self) -> Sessions:
        return Sessions(self.registry, self.path, lambda: self.now)

    async def token(self, **options: Any) -> tuple[Token, str]:
        token, secret = new_token(options, (), self.now)
        await self.put(token)
        return token, secret

    async def put(self, token: Token) -> None:
        await self.registry.put("token", token.key, token)

    async def restart(self) -> None:
        await self.sessions.close()
        self.sessions = self.open()

    def is_good(self, cookie: str) -> bool:
        try:
            self.sessions.find(cookie)
        except Unauthorized:
            return False
        return True


class Stream:
    """Something that lives as long as a session."""

    def __init__(self) -> None:
        self.ended = 0

    def session_ended(self) -> None:
        self.ended += 1


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.gen_test
async def test_a_restart_ends_no_session_and_a_sign_out_does_for_good(world: World) -> None:
    """The file is what is left of them, and one that signed out is not in it."""
    token, secret = await world.token()
    kept, _ = await world.sessions.begin(token, secret)
    gone, session = await world.sessions.begin(token, secret)
    owner, _ = await world.sessions.redeem(world.sessions.new_code())
    session.held.add(stream := Stream())
    await world.sessions.end(gone)
    assert stream.ended == 1
    await world.restart()
    assert [world.is_good(cookie) for cookie in (kept, gone, owner)] == [True, False, True]
    assert world.sessions.find(kept)[1] == token
    assert world.sessions.find(owner)[1].administrator


@pytest.mark.gen_test
async def test_the_file_opens_nothing(world: World) -> None:
    """Only its owner reads it, and it holds no cookie, no secret and no code."""
    token, secret = await world.token()
    cookie, _ = await world.sessions.begin(token, secret)
    code = world.sessions.new_code()
    await world.sessions.redeem(world.sessions.new_code())
    text = world.path.read_text()
    assert not [each for each in (cookie, secret, code) if each in text]
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600
    assert [each.name for each in world.path.parent.iterdir()] == [NAME]


@pytest.mark.parametrize("change", ["revoked", "rotated", "expired", "no API access", "deleted while it was down"])
@pytest.mark.gen_test
async def test_it_ends_with_its_token(world: World, change: str) -> None:
    """At once, for whatever holds it too, and for good: a token that comes back does not bring it back."""
    token, secret = await world.token()
    cookie, session = await world.sessions.begin(token, secret)
    session.held.add(stream := Stream())
    if change == "deleted while it was down":
        await world.sessions.close()
        await world.registry.delete("token", token.key)
        world.sessions = world.open()
    elif change == "revoked":
        await world.registry.delete("token", token.key)
    elif change == "rotated":
        await world.put(rotated_token(token, 0, world.now)[0])
    elif change == "expired":
        await world.put(dataclasses.replace(token, expires_at=world.now))
    else:
        await world.put(dataclasses.replace(token, api_access=False))
    assert not world.is_good(cookie)
    if change != "deleted while it was down":
        assert stream.ended == 1
        await world.restart()
        await world.put(token)
        assert not world.is_good(cookie)


@pytest.mark.gen_test
async def test_it_follows_the_grace_of_a_rotation(world: World) -> None:
    """A session of the secret before stays good as long as that does, one of the new secret goes on."""
    token, secret = await world.token()
    old, _ = await world.sessions.begin(token, secret)
    rotated, fresh = rotated_token(token, 60, world.now)
    await world.put(rotated)
    new, _ = await world.sessions.begin(rotated, fresh)
    assert world.is_good(old)
    world.now += 60
    assert [world.is_good(old), world.is_good(new)] == [False, True]


@pytest.mark.gen_test
async def test_it_ends_by_itself(world: World) -> None:
    """After seven days, or when its token does, whatever that had for its end when the session began."""
    long, short = await world.token(), await world.token(expires_at=world.now + 100)
    first, _ = await world.sessions.begin(*long)
    second, session = await world.sessions.begin(*short)
    assert session.expires_at == world.now + 100
    world.now += 100
    assert [world.is_good(first), world.is_good(second)] == [True, False]
    await world.put(dataclasses.replace(long[0], expires_at=world.now + 1))
    assert world.is_good(first)
    world.now += 1
    assert not world.is_good(first)
    await world.put(long[0])
    third, _ = await world.sessions.begin(*long)
    world.now += LIFE
    assert not world.is_good(third)


@pytest.mark.gen_test
async def test_a_code_is_good_once_and_for_ten_minutes(world: World) -> None:
    """And not after everybody was signed out."""
    sessions = world.sessions
    once, old, back = (sessions.new_code() for _ in range(3))
    cookie, _ = await sessions.redeem(once)
    with pytest.raises(Unauthorized):
        await sessions.redeem(once)
    world.now += CODE_LIFE
    with pytest.raises(Unauthorized):
        await sessions.redeem(old)
    back = sessions.new_code()
    assert await sessions.end_all() == 1
    assert not world.is_good(cookie)
    with pytest.raises(Unauthorized):
        await sessions.redeem(back)
    await world.restart()
    assert not world.is_good(cookie)


@pytest.mark.gen_test
async def test_they_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest make room: a token's own first, so that one token can't end the others' sessions; codes too."""
    monkeypatch.setattr(module, "MAX_SESSIONS_OF_TOKEN", 2)
    monkeypatch.setattr(module, "MAX_SESSIONS", 4)
    monkeypatch.setattr(module, "MAX_CODES", 2)

    sessions = world.sessions
    other, _ = await sessions.begin(*await world.token())
    greedy = await world.token()
    mine = [(await sessions.begin(*greedy))[0] for _ in range(5)]
    assert [world.is_good(each) for each in mine] == [False, False, False, True, True]
    assert world.is_good(other)
    more = [(await sessions.begin(*await world.token()))[0] for _ in range(2)]
    assert [world.is_good(each) for each in (other, mine[3], *more)] == [False, True, True, True]
    codes = [sessions.new_code() for _ in range(3)]
    with pytest.raises(Unauthorized):
        await sessions.redeem(codes[0])
    await sessions.redeem(codes[1])


@pytest.mark.parametrize("content", [b"", b"{}", b'[{"id": 1}]', b"\xff"])
@pytest.mark.gen_test
async def test_a_file_that_is_damaged_signs_everybody_out(world: World, content: bytes) -> None:
    """The relay starts all the same, and makes it anew."""
    token, secret = await world.token()
    cookie, _ = await world.sessions.begin(token, secret)
    world.path.write_bytes(content)
    await world.restart()
    assert not world.is_good(cookie)
    again, _ = await world.sessions.begin(token, secret)
    await world.restart()
    assert world.is_good(again)


@pytest.mark.gen_test
async def test_where_it_can_not_be_stored_it_is_good_until_the_next_start(world: World) -> None:
    """A full or read-only disk keeps nobody out."""
    world.path.mkdir()
    token, secret = await world.token()
    cookie, _ = await world.sessions.begin(token, secret)
    assert world.is_good(cookie)
    await world.restart()
    assert not world.is_good(cookie)


@pytest.mark.gen_test
async def test_without_a_thread_to_store_it_it_is_good(world: World) -> None:
    """Who signs in does not get an error for it."""

    token, secret = await world.token()
    with no_threads():
        cookie, _ = await world.sessions.begin(token, secret)
    assert world.is_good(cookie)


@pytest.mark.gen_test
async def test_a_thread_of_which_nothing_comes_holds_nobody_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may be too short for it to begin. One that begins late brings back nobody who signed out meanwhile."""
    late: list[Callable[[], object]] = []
    token, secret = await world.token()
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr("relay_tornado.low_memory.begin_thread", late.append)
        patch.setattr(module, "_STORES", 0.01)
        cookie, _ = await world.sessions.begin(token, secret)
    assert world.is_good(cookie)
    assert [each["event"] for each in logs] == ["sessions_not_stored"]
    await world.sessions.end(cookie)
    for work in late:
        work()
    await world.restart()
    assert not world.is_good(cookie)


@pytest.mark.gen_test
async def test_a_write_that_is_late_spoils_no_newer_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk holds it up with the file open: what it writes then is not what the file holds in the end."""
    token, secret = await world.token()
    gone, _ = await world.sessions.begin(token, secret)
    held, go_on, ended = threading.Event(), threading.Event(), threading.Semaphore(0)
    write, fdopen = world.sessions._write, os.fdopen

    def counted(data: bytes) -> None:
        write(data)
        ended.release()

    def opened(*arguments: Any) -> Any:
        if not held.is_set():
            held.set()
            go_on.wait(TIMEOUT)
        return fdopen(*arguments)

    monkeypatch.setattr(world.sessions, "_write", counted)
    monkeypatch.setattr(os, "fdopen", opened)
    monkeypatch.setattr(module, "_STORES", 0.2)
    kept, _ = await world.sessions.begin(token, secret)
    await until(held.is_set, "the thread, which may begin later than that")
    await world.sessions.end(gone)
    go_on.set()
    assert [ended.acquire(timeout=TIMEOUT) for _ in range(2)] == [True, True]
    await world.restart()
    assert [world.is_good(gone), world.is_good(kept)] == [False, True]
