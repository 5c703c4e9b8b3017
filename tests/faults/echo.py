"""An echo for Autobahn's fuzzing client: `python -m tests.faults.echo relay|plain [direct|tornado]`.

`relay` is the relay's own listener, connections and WebSocket handler, with its conversation left out; `plain` is
Tornado alone.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from relay_tornado.handlers.listener import Listener
from relay_tornado.handlers.socket import SocketHandler
from relay_tornado.settings import Settings

MOST = 32 << 20
"""Bytes of a message: the largest of the suite has 16 MiB."""


class PlainEcho(WebSocketHandler):
    """What Tornado's documentation has as its example."""

    async def on_message(self, message: str | bytes) -> None:
        await self.write_message(message, binary=isinstance(message, bytes))


class RelayEcho(SocketHandler):
    """The relay's handler without what it does with a message."""

    def initialize(self, **_: Any) -> None:
        self._conversation = None
        self._stream = None
        self._limit = 0

    async def _turned_away(self) -> bool:
        return False

    def open(self, *args: str, **kwargs: str) -> None:
        self.allow(MOST)

    async def on_message(self, message: str | bytes) -> None:  # type: ignore[override]
        await self.write_message(message, binary=isinstance(message, bytes))

    def on_close(self) -> None:
        pass


async def main(kind: str, transport: str | None) -> None:
    if kind == "plain":
        server = HTTPServer(Application([("/", PlainEcho)], websocket_max_message_size=MOST), max_buffer_size=2 * MOST)
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        port = sockets[0].getsockname()[1]
    else:
        settings = Settings(port=0, **({} if transport is None else {"transport": transport}))
        listener = Listener(Application([("/", RelayEcho)], websocket_max_message_size=MOST), settings)
        port = listener.start()
    print(f"listening on http://127.0.0.1:{port}", flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
