"""/metrics: the metrics for Prometheus, for an administrator's token, or for everybody on a port of their own."""

from __future__ import annotations

from collections.abc import Callable

from tornado.routing import URLSpec

from relay_tornado.errors import Forbidden, Unauthorized
from relay_tornado.handlers.base import JsonHandler
from relay_tornado.metrics import CONTENT_TYPE
from relay_tornado.registry.access import Access, credentials


class MetricsHandler(JsonHandler):
    """`expose` returns the body. With `access`, the request needs an administrator's token (Bearer or Basic)."""

    def initialize(self, expose: Callable[[], bytes], access: Access | None) -> None:
        self._expose = expose
        self._access = access

    def get(self) -> None:
        if self._access is not None:
            self._authorize(self._access)
        self.set_header("Content-Type", CONTENT_TYPE)
        self.set_header("Cache-Control", "no-store")
        self.finish(self._expose())

    def _authorize(self, access: Access) -> None:
        try:
            key, secret = credentials(self.request.headers.get("Authorization", ""))
        except Unauthorized:
            raise Unauthorized(
                "the metrics are for administrators: send Authorization: Bearer with the secret of a token that"
                " `relay token create` made (or Basic with its key and secret), or scrape the port of --metrics-port"
            ) from None
        if not access.authenticate(key, secret).administrator:
            raise Forbidden("the metrics are of all buckets: only an administrator's token reads them")


def routes(expose: Callable[[], bytes], access: Access | None) -> list[URLSpec]:
    """With `access` None, no token is required."""
    return [URLSpec("/metrics", MetricsHandler, {"expose": expose, "access": access})]
