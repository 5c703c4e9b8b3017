"""A session that got somewhere, and what it did about what was said."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from relay_tornado.ids import hash_secret
from relay_tornado.model import Token
from relay_tornado.protocol import Authenticate, Close, Effect, Effects, Send, Session, Subscribe
from relay_tornado.settings import Settings

SETTINGS = Settings()
TOKEN = Token(key="K", secret_hash=hash_secret("S"), created_at=0)
OTHER = Token(key="K2", secret_hash="h2", created_at=0)
AUTH = '{"action":"auth","key":"K","secret":"S"}'
SUBSCRIBE = '{"action":"subscribe","buckets":["foo","bar"]}'
AUTHENTICATED = {"type": "status", "status": "authenticated", "message": "connected successfully, subscribe to buckets"}
PING = {"type": "status", "status": "ping", "message": ""}


def nothing_moved() -> Mapping[str, str]:
    return {}


def sent(effects: Effects) -> list[dict[str, Any]]:
    return [json.loads(effect.payload) for effect in effects if isinstance(effect, Send)]


def kinds(effects: Effects) -> list[type[Effect]]:
    return [type(effect) for effect in effects]


def closing(effects: Effects) -> int:
    close = effects[-1]
    assert isinstance(close, Close)
    assert 0 < len(close.reason.encode()) <= 123
    return close.code


def authenticated(**settings: Any) -> Session:
    session = Session(replace(SETTINGS, **settings), 0.0)
    assert session.received(AUTH) == (Authenticate("K", "S"),)
    session.authenticated(TOKEN)
    return session


def subscribed(text: str = SUBSCRIBE, answers: list[dict[str, Any]] | None = None, **settings: Any) -> Session:
    session = authenticated(**settings)
    (effect,) = session.received(text)
    assert isinstance(effect, Subscribe)
    session.subscribed(effect.request, answers or [], 0.0)
    return session
