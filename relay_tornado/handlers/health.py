"""/healthz and /readyz: whether the process serves, and whether it can commit events."""

from __future__ import annotations

from typing import Any, Protocol

from tornado.routing import URLSpec

from relay_tornado.handlers.base import JsonHandler


class Store(Protocol):
    """The source of readiness: the database."""

    @property
    def problem(self) -> str: ...

    @property
    def loss(self) -> Any: ...


class HealthHandler(JsonHandler):
    """200 while the process serves. `instance` names the process, so that its operator sees whether an address leads to
    it."""

    def initialize(self, instance: str) -> None:
        self._instance = instance

    def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.answer({"status": "ok", "instance": self._instance})


class ReadyHandler(JsonHandler):
    """200 while events can be committed, otherwise 503 with the problem. `events_missing` is present if committed
    events were found missing at this start."""

    def initialize(self, store: Store) -> None:
        self._store = store

    def get(self) -> None:
        store = self._store
        problem = store.problem
        document: dict[str, Any] = {"status": "unavailable", "problem": problem} if problem else {"status": "ready"}
        if store.loss is not None:
            document["events_missing"] = store.loss.events
        self.answer(document, 503 if problem else 200)


def routes(store: Store, instance: str) -> list[URLSpec]:
    return [
        URLSpec("/healthz", HealthHandler, {"instance": instance}),
        URLSpec("/readyz", ReadyHandler, {"store": store}),
    ]
