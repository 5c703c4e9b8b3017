"""A TCP proxy that cuts connections when it is told to."""

from __future__ import annotations

import asyncio
import random
from typing import Self

from tests.acceptance.relay import Relay


class CuttingProxy:
    """Passes connections on to the relay, whoever serves there now. A context manager; `port` is where it listens."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.port = 0
        self.cuts = 0
        self._any = asyncio.Event()
        self._live: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for ends in list(self._live.values()):
            _abort(ends)
        while self._live:
            await asyncio.wait(list(self._live))

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/socket"

    async def cut(self, chance: random.Random) -> None:
        """Cuts one of the connections, without a word; waits for one where there is none."""
        await self._any.wait()
        _abort(chance.choice(list(self._live.values())))
        self.cuts += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, back = await asyncio.open_connection("127.0.0.1", self.relay.port)
        except OSError:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        ends = self._live[task] = writer, back
        self._any.set()
        try:
            await asyncio.gather(_pass_on(reader, back), _pass_on(upstream, writer))
        finally:
            del self._live[task]
            if not self._live:
                self._any.clear()
            _abort(ends)


def _abort(ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
    for writer in ends:
        writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    # When one side ends, so does the other.
    writer.transport.abort()
