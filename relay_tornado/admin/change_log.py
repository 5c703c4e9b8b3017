"""Logs what is changed in buckets, inputs, outputs and tokens, so that the log says since when something is different.

Names of records and fields are logged, and no values: some are secrets.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import structlog

from relay_tornado.low_memory import try_log
from relay_tornado.model import Bucket, Input, Output, RateLimit, Token
from relay_tornado.rate_limits import LogLimit
from relay_tornado.registry.contract import Kind, Registry

RATE: Final = RateLimit(200, 200.0)
"""Lines at once, and the seconds in which as many more may come: a token with API access can cause any number."""

_IGNORED: Final = frozenset({"updated_at", "inputs", "outputs", "next_output", "previous_hash", "previous_until"})
_SHOWN: Final[Mapping[str, str]] = {"secret_hash": "secret", "disabled_reason": "disabled"}

_log = structlog.get_logger(__name__)


class ChangeLog:
    """Logs the changes of a registry from now on, until `close`."""

    def __init__(self, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns monotonic seconds."""
        self._registry = registry
        self._limit = LogLimit(RATE, clock)
        self._known: dict[tuple[Kind, str], Bucket | Token] = {
            **{("bucket", each.id): each for each in registry.list("bucket")},
            **{("token", each.key): each for each in registry.list("token")},
        }
        self._end = registry.watch(self._changed)

    def close(self) -> None:
        """Ends it."""
        self._end()

    def _changed(self, kind: Kind, key: str) -> None:
        now: Bucket | Token | None = (
            self._registry.get("bucket", key) if kind == "bucket" else self._registry.get("token", key)
        )
        before = self._known.pop((kind, key), None)
        if now is not None:
            self._known[kind, key] = now
        record = now or before
        if record is None or now == before:
            return
        named = {"bucket": record.name} if isinstance(record, Bucket) else _described(record)
        if before is None:
            self._tell(f"{kind}_created", named)
        elif now is None:
            self._tell("bucket_deleted" if kind == "bucket" else "token_revoked", named)
        elif changes := list(_changes(before, now)):
            was = {"was": before.name} if isinstance(before, Bucket) and before.name != named.get("bucket") else {}
            self._tell(f"{kind}_changed", {**named, **was, "changed": changes})

    def _tell(self, event: str, what: Mapping[str, Any]) -> None:
        self._limit.tell(partial(try_log, _log.info), event, **what)


def _described(token: Token) -> dict[str, str]:
    return {"token": token.key, "description": token.description}


def _changes(before: Any, now: Any) -> Iterator[str]:
    """What differs between two states of a record, such as `rate_limit` or `output shop: rules`."""
    yield from _fields(before, now)
    if isinstance(before, Bucket) and isinstance(now, Bucket):
        yield from _parts("input", before.inputs, now.inputs)
        yield from _parts("output", before.outputs, now.outputs)


def _parts(kind: str, before: tuple[Input, ...] | tuple[Output, ...], now: tuple[Any, ...]) -> Iterator[str]:
    old, new = {each.id: each for each in before}, {each.id: each for each in now}
    for key, each in new.items():
        if key not in old:
            yield f"{kind} {each.name}: created"
        elif fields := _fields(old[key], each):
            was = "" if old[key].name == each.name else f" (was {old[key].name})"
            yield f"{kind} {each.name}{was}: {', '.join(fields)}"
    for key, each in old.items():
        if key not in new:
            yield f"{kind} {each.name}: deleted"


def _fields(before: Any, now: Any) -> list[str]:
    """The names of the fields that differ."""
    names = (each.name for each in dataclasses.fields(now) if each.name not in _IGNORED)
    differ = (name for name in names if getattr(before, name) != getattr(now, name))
    return list(dict.fromkeys(_SHOWN.get(name, name) for name in differ))
