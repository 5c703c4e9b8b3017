"""/healthz and /readyz: whether the process serves, and whether it can commit events."""

from __future__ import annotations

from typing import Any, Protocol

from tornado.routing import URLSpec

from relay_tornado.handlers.base import JsonHandler


class Store(Protocol):
    """What readiness is read from: the database."""

    @property
    def problem(self) -> str: ...

    @property
    def loss(self) -> Any: ...

    def healthy(self) -> bool: ...


class HealthHandler(JsonHandler):
    """200 while the process serves."""

    def get(self) -> None:
        self.answer({"status": "ok"})


class ReadyHandler(JsonHandler):
    """200 while events can be committed, else 503 with what is wrong. `events_missing` is there where committed
    events were found missing at this start."""

    def initialize(self, store: Store) -> None:
        self._store = store

    def get(self) -> None:
        store = self._store
        ready = store.healthy()
        document: dict[str, Any] = {"status": "ready" if ready else "unavailable"}
        if not ready:
            document["problem"] = store.problem
        if store.loss is not None:
            document["events_missing"] = store.loss.events
        self.answer(document, 200 if ready else 503)


def routes(store: Store) -> list[URLSpec]:
    return [URLSpec("/healthz", HealthHandler), URLSpec("/readyz", ReadyHandler, {"store": store})]
