"""/usage and /connected-clients: what there is, and who listens."""

from __future__ import annotations

import re
from typing import Any

from relay_tornado.errors import BucketGone
from relay_tornado.handlers.rest.base import RestHandler, operation
from relay_tornado.handlers.rest.schemas import ClientsAnswer, UsageAnswer
from relay_tornado.wire.fields import Document
from relay_tornado.wire.rest import whole

_PRODUCT = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)/([!#$%&'*+.^_`|~0-9A-Za-z-]+)")


class UsageHandler(RestHandler):
    PATH = "/v1/usage"

    @operation("How much there is in the token's buckets, and what the relay allows", UsageAnswer())
    async def get(self) -> None:
        buckets = self.rest.stored.buckets(self.token)
        stored = received = 0
        for bucket in buckets:
            try:
                bounds = await self.rest.stored.log.bounds(bucket.id)
            except BucketGone:
                continue  # deleted since the list was read
            stored += bounds.head - bounds.first + 1
            received += bounds.head
        settings = self.rest.administration.settings
        usage: dict[str, Any] = {
            "buckets": len(buckets),
            "inputs": sum(len(bucket.inputs) for bucket in buckets),
            "outputs": sum(len(bucket.outputs) for bucket in buckets),
            "webhooks": received,
            "webhooks_stored": stored,
            "connected_clients": len(clients(self)),
        }
        plan = {
            "name": "self-hosted",
            "max_body": settings.max_body,
            "large_max_body": settings.large_max_body,
            "max_sockets": settings.max_sockets,
            "retention_age": None if settings.retention_age is None else whole(settings.retention_age),
            "retention_events": settings.retention_events,
            "retention_bytes": settings.retention_bytes,
        }
        self.answer({"usage": usage, "plan_meta": plan})


class ClientsHandler(RestHandler):
    PATH = "/v1/connected-clients"

    @operation("The clients that are subscribed to buckets of the token", ClientsAnswer())
    async def get(self) -> None:
        self.answer({"webhook_clients": clients(self), "tunnel_clients": []})


def clients(handler: RestHandler) -> list[Document]:
    """The live subscribers as far as the token may know of them: in its buckets, and other tokens' keys left out."""
    token = handler.token
    names = {bucket.id: bucket.name for bucket in handler.rest.stored.buckets(token)}
    found = []
    for client in handler.rest.sockets.subscribed:
        buckets = sorted(names[bucket_id] for bucket_id in client.buckets if bucket_id in names)
        if not buckets and not token.administrator:
            continue
        product = _PRODUCT.match(client.user_agent)
        found.append(
            {
                "access_token_key": client.key if token.administrator or client.key == token.key else "",
                "buckets": buckets,
                "client_ip": client.client_ip,
                "client_type": product[1] if product else client.user_agent[:100],
                "client_version": product[2] if product else "",
                "consumer": client.consumer,
                "destination": "",
                "positions": {names[key]: seq for key, seq in client.positions.items() if key in names},
                "subscribed_at": int(client.subscribed_at or 0),
            }
        )
    return found


HANDLERS = (UsageHandler, ClientsHandler)
