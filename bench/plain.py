"""What the relay is measured against: Tornado as its documentation shows it, which stores nothing.

POST answers 200 and sends the body to every open WebSocket with `write_message`, the same string for all.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any, ClassVar

import tornado.httpserver
import tornado.netutil
import tornado.web
import tornado.websocket


class Hook(tornado.web.RequestHandler):
    """Takes a webhook and keeps nothing."""

    def post(self) -> None:
        if Socket.subscribers:
            event = {"type": "webhook", "method": "POST", "body": self.request.body.decode()}
            frame = json.dumps(event, separators=(",", ":"))
            for socket in Socket.subscribers:
                socket.write_message(frame)


class Socket(tornado.websocket.WebSocketHandler):
    """Answers as the relay does, and is sent whatever is posted."""

    subscribers: ClassVar[set[Socket]] = set()

    async def on_message(self, message: str | bytes) -> None:
        action: Any = json.loads(message)["action"]
        if action == "auth":
            await self.write_message({"type": "status", "status": "authenticated", "message": ""})
        if action == "subscribe":
            await self.write_message({"type": "status", "status": "subscribed", "message": ""})
            self.subscribers.add(self)

    def on_close(self) -> None:
        self.subscribers.discard(self)


async def main() -> None:
    application = tornado.web.Application([("/hook", Hook), ("/v1/socket", Socket)], log_function=lambda handler: None)
    server = tornado.httpserver.HTTPServer(application)
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1", backlog=1024)
    server.add_sockets(sockets)
    print(f"listening on http://127.0.0.1:{sockets[0].getsockname()[1]}")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


if "--uvloop" in sys.argv:
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
