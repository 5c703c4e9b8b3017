"""/bins: a bucket to try something, with one request."""

from __future__ import annotations

from relay_tornado.admin.bins import create_bin
from relay_tornado.handlers.rest.base import RestHandler, operation
from relay_tornado.handlers.rest.schemas import BinAnswer
from relay_tornado.handlers.rest.service import shown
from relay_tornado.wire.rest import bucket_document


class BinsHandler(RestHandler):
    """Request bins."""

    PATH = "/v1/bins"

    @operation("Make a bucket that is deleted after a day, unless it is kept", BinAnswer(), status=201, statuses=(412,))
    async def post(self) -> None:
        administration = self.rest.administration
        document = bucket_document(await create_bin(administration))
        url = f"{(administration.url or '').rstrip('/')}/v1/webhooks/{document['inputs'][0]['id']}"
        answer = {"bucket": shown(self.token, "bucket", document), "url": url, "expires_at": document["expires_at"]}
        self.answer(answer, 201)


HANDLERS = (BinsHandler,)
