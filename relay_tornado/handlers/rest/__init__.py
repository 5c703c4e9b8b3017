"""The REST interface: the Tornado edge of the services, with one handler per path."""

from __future__ import annotations

from tornado.routing import URLSpec

from relay_tornado.handlers.rest import buckets, consumers, logs, new_events, openapi, search, status, tokens
from relay_tornado.handlers.rest.base import RestHandler, route
from relay_tornado.handlers.rest.openapi import describe as describe
from relay_tornado.handlers.rest.service import Rest as Rest

HANDLERS: tuple[type[RestHandler], ...] = (
    *buckets.HANDLERS,
    *consumers.HANDLERS,
    *logs.HANDLERS,
    *new_events.HANDLERS,
    *search.HANDLERS,
    *tokens.HANDLERS,
    *status.HANDLERS,
    openapi.DescriptionHandler,
)


def routes(rest: Rest) -> list[URLSpec]:
    return [route(handler, rest) for handler in HANDLERS]
