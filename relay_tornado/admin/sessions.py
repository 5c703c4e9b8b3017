"""The page's sessions, which outlive a restart, and the one-time codes that begin one.

A browser's cookie names a session. It stands for a token, or for the relay's owner, who got a code on the relay's own
machine. It is valid as long as the secret that began it: it ends at once if the token is revoked, rotated or expires,
and with a sign-out. So sessions are records, not signed cookies. They are in the file `sessions.json` in the data
directory, which holds only the hash of each cookie. The file is in no backup, so a restore brings no session back;
without it everybody is signed out.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog

from relay_tornado.errors import Unauthorized
from relay_tornado.ids import hash_secret
from relay_tornado.low_memory import Lock, run_in_thread
from relay_tornado.model import DAY, Token
from relay_tornado.registry.contract import Kind, Registry
from relay_tornado.storage.database_files import sync

_log = structlog.get_logger(__name__)

LIFE: Final = 7 * DAY
"""Seconds after which the user has to sign in again."""
CODE_LIFE: Final = 600.0
"""Seconds for which a one-time code is valid."""
MAX_SESSIONS: Final = 1_000
MAX_SESSIONS_OF_TOKEN: Final = 100
MAX_CODES: Final = 100
"""The oldest codes and sessions make room for new ones."""

OWNER: Final = Token(key="", secret_hash="", created_at=0.0, description="the relay's owner")
"""Stands for a user who came with a code: one who may run commands on the relay's machine, and so may do everything."""

NAME: Final = "sessions.json"

_STORES: Final = 10.0
"""Seconds that storing may take. If memory is short, it may end without a result or an error."""

_NOT_SIGNED_IN: Final = "nobody is signed in here (any more): sign in again"
_WRONG_CODE: Final = "this link was used already, or is too old: print another one with `relay ui`"


class _Stored(msgspec.Struct):
    """A session in the file."""

    id: str
    token: str
    secret_hash: str
    created_at: float
    expires_at: float


class Held(Protocol):
    """Ends with its session: an open event stream."""

    def session_ended(self) -> None: ...


@dataclass(eq=False, slots=True)
class Session:
    """`token` is the token's key, "" for the owner; `secret_hash` is of the secret that began the session."""

    id: str
    token: str
    secret_hash: str = field(repr=False)
    created_at: float
    expires_at: float
    held: set[Held] = field(default_factory=set)


class Sessions:
    """All sessions, and the codes that were not used yet."""

    def __init__(self, registry: Registry, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Reads the stored sessions. `clock` returns unix seconds."""
        self._registry = registry
        self._path = path
        self._clock = clock
        self._codes: dict[str, float] = {}
        self._sessions: dict[str, Session] = {}
        self._storing = Lock()
        self._newest = b""
        """The content that the file should have."""
        self._writing = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._end_watch = registry.watch(self._changed)
        self._load()

    # codes

    def new_code(self) -> str:
        """A code that signs the owner in once, within ten minutes. Only its hash is kept, and only in memory."""
        code = secrets.token_urlsafe(24)
        self._codes[hash_secret(code)] = self._clock() + CODE_LIFE
        while len(self._codes) > MAX_CODES:
            del self._codes[next(iter(self._codes))]
        return code

    async def redeem(self, code: str) -> tuple[str, Session]:
        """Begins the owner's session with a code; returns the cookie's value and the session. Raises Unauthorized."""
        if self._codes.pop(hash_secret(code), 0.0) <= self._clock():
            raise Unauthorized(_WRONG_CODE)
        return await self._begin(OWNER, "")

    # sessions

    async def begin(self, token: Token, secret: str) -> tuple[str, Session]:
        """Begins a session of this token, whose secret was shown; returns the cookie's value and the session."""
        return await self._begin(token, hash_secret(secret))

    def find(self, cookie: str) -> tuple[Session, Token]:
        """The session that a cookie names, and its token in its current state. Raises Unauthorized."""
        session = self._sessions.get(hash_secret(cookie))
        token = None if session is None else self._token(session)
        if session is None or token is None:
            raise Unauthorized(_NOT_SIGNED_IN)
        return session, token

    async def end(self, cookie: str) -> None:
        """Signs out: ends the session for every page and stream. A missing session is no error."""
        session = self._sessions.get(hash_secret(cookie))
        if session is not None:
            self._end(session)
            await self._store()

    async def end_all(self) -> int:
        """Signs everybody out, and revokes the codes; returns the number of sessions."""
        self._codes.clear()
        ended = list(self._sessions.values())
        for session in ended:
            self._end(session)
        await self._store()
        return len(ended)

    async def close(self) -> None:
        """Stops following the registry, and waits until the file is written. May be repeated."""
        self._end_watch()
        await asyncio.gather(*self._tasks)
        async with self._storing:
            pass

    async def _begin(self, token: Token, secret_hash: str) -> tuple[str, Session]:
        now = self._clock()
        ends = now + LIFE if token.expires_at is None else min(now + LIFE, token.expires_at)
        cookie = secrets.token_urlsafe(32)
        session = Session(hash_secret(cookie), token.key, secret_hash, now, ends)
        for each in [one for one in self._sessions.values() if self._token(one) is None]:
            self._end(each)
        same = [each for each in self._sessions.values() if each.token == token.key]
        if len(same) >= MAX_SESSIONS_OF_TOKEN:
            self._end(same[0])
        elif len(self._sessions) >= MAX_SESSIONS:
            self._end(next(iter(self._sessions.values())))
        self._sessions[session.id] = session
        await self._store()
        return cookie, session

    def _token(self, session: Session) -> Token | None:
        """The session's token; None if the session is over."""
        now = self._clock()
        if now >= session.expires_at:
            return None
        if not session.token:
            return OWNER
        token = self._registry.get("token", session.token)
        if token is None or token.expired(now) or not token.api_access or not token.opens(session.secret_hash, now):
            return None
        return token

    def _end(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        for each in list(session.held):
            each.session_ended()

    def _changed(self, kind: Kind, key: str) -> None:
        if kind != "token":
            return
        over = [each for each in self._sessions.values() if each.token == key and self._token(each) is None]
        for session in over:
            self._end(session)
        if over:
            task = asyncio.get_running_loop().create_task(self._store())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # the file

    def _load(self) -> None:
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=list[_Stored])
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("sessions_lost", reason=str(error), consequence="everybody has to sign in again")
            return
        for each in found[-MAX_SESSIONS:]:
            session = Session(**msgspec.structs.asdict(each))
            if self._token(session) is not None:
                self._sessions[session.id] = session

    async def _store(self) -> None:
        """Rewrites the file. If that fails, it is logged, and sessions are correct until the next start."""
        async with self._storing:
            stored = msgspec.convert(list(self._sessions.values()), list[_Stored], from_attributes=True)
            self._newest = msgspec.json.encode(stored)
            try:
                async with asyncio.timeout(_STORES):
                    await run_in_thread(partial(self._write, self._newest))
            except TimeoutError:
                _log.warning("sessions_not_stored", reason=f"it was not done within {_STORES:g} s")
            except (OSError, RuntimeError) as error:  # no thread can be started
                _log.warning("sessions_not_stored", reason=str(error))

    def _write(self, data: bytes) -> None:
        """Runs in a thread, perhaps late. Only one runs at a time, and data that is no longer the newest is not
        written."""
        made = self._path.with_suffix(".new")
        with self._writing:
            if data is not self._newest:
                return
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            made.replace(self._path)
            sync(self._path.parent)
