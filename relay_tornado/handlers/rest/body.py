"""/logs/{id}/body: an event's bytes as they came, to be saved and never to be shown on this origin."""

from __future__ import annotations

from relay_tornado.handlers.rest.base import RestHandler, operation


class BodyHandler(RestHandler):
    """The body of one event."""

    PATH = "/v1/logs/{log}/body"

    @operation("The exact bytes of an event's body, to be saved", None, content="application/octet-stream")
    async def get(self, log: str) -> None:
        body = await self.rest.logs.body(self.token, log)
        self.set_header("Content-Type", "application/octet-stream")
        # Whatever somebody sent, a browser neither runs nor shows it here.
        self.set_header("Content-Disposition", f'attachment; filename="{log}.bin"')
        self.set_header("Content-Security-Policy", "sandbox")
        self.finish(body)


HANDLERS = (BodyHandler,)
