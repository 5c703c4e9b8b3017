"""A relay that runs in a thread of its own, for commands that reach it over HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.app import Relay
from relay_tornado.log_output import configure
from relay_tornado.settings import Settings
from tests.acceptance.relay import TIMEOUT, rest
from tests.cli.runner import logging_as_before

WAYS = pytest.mark.parametrize("way", ["control socket", "REST", "data directory"])
"""By which commands reach a relay, or what it left; see `reaching`."""


class Server:
    """The relay's address, and the secret of an administrator's token."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.url = ""
        self.secret = ""
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    async def _run(self) -> None:
        settings = dataclasses.replace(Settings(), port=0, data=self.data, log_level="error", log_format="console")
        configure(settings)  # what it says must not stand among what a command prints
        relay = Relay(settings)
        try:
            await relay.start()
            self.relay = relay
            self.url = relay.address
            _, self.secret = await relay.administration.create_token()
            self._started.set()
            await self._stop.wait()
            await relay.stop()
        finally:
            self._started.set()

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(TIMEOUT)
        assert self.url, "the relay did not start"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()
        self._loop.close()

    @property
    def variables(self) -> dict[str, str]:
        """Those by which commands reach it over HTTP."""
        return {"RELAY_URL": self.url, "RELAY_SECRET": self.secret}

    def ask(self, coroutine: Any) -> Any:
        """Runs a coroutine of the relay's in its loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(TIMEOUT)

    def send(self, input_id: str, body: bytes, **headers: str) -> None:
        """A webhook."""
        request = urllib.request.Request(f"{self.url}/v1/webhooks/{input_id}", body, headers, method="POST")
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            assert response.status == 200

    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """What REST answers an administrator."""
        return rest(self.url, self.secret, method, path, body)


@contextmanager
def serving(data: Path) -> Iterator[Server]:
    """A relay on this directory."""
    with logging_as_before():
        server = Server(data)
        server.start()
        try:
            yield server
        finally:
            server.close()


@contextmanager
def reaching(data: Path, way: str, prepare: Callable[[Server], object] | None = None) -> Iterator[dict[str, str]]:
    """The variables by which commands reach a relay on this directory in one of `WAYS`, once it is prepared. By the
    data directory none runs any more, or where there is nothing to prepare none ever did."""
    with ExitStack() as stack:
        variables: dict[str, str] = {}
        if prepare is not None or way != "data directory":
            server = stack.enter_context(serving(data))
            if prepare is not None:
                prepare(server)
            if way == "REST":
                variables = server.variables
        if way == "data directory":
            stack.close()
        yield variables
