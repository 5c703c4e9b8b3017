"""/buckets and what is in them: inputs, outputs, rules; /bins."""

from __future__ import annotations

from typing import Any, Final

from marshmallow import Schema

from relay_tornado.admin.inputs import find_input
from relay_tornado.admin.outputs import find_output
from relay_tornado.errors import Forbidden, Invalid
from relay_tornado.handlers.rest.base import RestHandler, operation
from relay_tornado.handlers.rest.masking import changes, shown
from relay_tornado.handlers.rest.queries import DeleteQuery
from relay_tornado.handlers.rest.schemas import BinAnswer, BucketAnswer, Deleted, InputAnswer, OutputAnswer
from relay_tornado.model import Bucket
from relay_tornado.pieces import Pieces
from relay_tornado.wire.destination import is_public, masked
from relay_tornado.wire.fields import Document, StockFields
from relay_tornado.wire.place import PLACE, compared
from relay_tornado.wire.rest import (
    BucketFields,
    InputFields,
    OutputFields,
    bucket_document,
    deleted_document,
    input_document,
    output_document,
)

_SHARED: Final = (*PLACE, "id")
"""Fields of an input whose values are taken by one bucket for all: whether one is free tells of other buckets."""
_WHOLE: Final = "created_at"
"""What only clients send that write all of what they know: those in Go."""
_PARTS: Final = ("rules", "throttle", "durability", "replay_missing")
"""What of an output these leave out where there is none. The last is only kept, as all that the relay does not know."""


class RulesBody(Schema):
    """Rules; `relay_tornado.rules` judges them, and `openapi_constraints.py` describes them."""


class BucketsHandler(RestHandler):
    PATH = "/v1/buckets"

    @operation("List the token's buckets, oldest first", BucketAnswer(many=True), large=True)
    async def get(self) -> None:
        found, pieces = [], Pieces()
        for bucket in self.rest.stored.buckets(self.token):
            found.append(shown(self.token, "bucket", bucket_document(bucket)))
            await pieces.done()
        self.answer(found)

    @operation("Create a bucket with one input", BucketAnswer(), status=201, body=BucketFields(), statuses=(412,))
    async def post(self) -> None:
        options = self.document()
        name = options.pop("name", None)
        if not isinstance(name, str):
            problem = "is missing: give the bucket a name" if name is None else "must be a string"
            raise Invalid(problem, "name")
        bucket = await self.rest.administration.create_bucket(name, **options)
        self.answer(shown(self.token, "bucket", bucket_document(bucket)), 201)


class BucketHandler(RestHandler):
    PATH = "/v1/buckets/{bucket}"

    @operation("Get a bucket with its inputs and outputs", BucketAnswer(), large=True)
    async def get(self, bucket: str) -> None:
        self.answer(shown(self.token, "bucket", bucket_document(self.bucket)))

    @operation("Change a bucket; absent fields stay as they are", BucketAnswer(), body=BucketFields(), statuses=(412,))
    async def put(self, bucket: str) -> None:
        document = _change(self)

        def wanted(now: Bucket) -> Document:
            options = changes(self.token, "bucket", bucket_document(now), document)
            if "name" in options and not self.token.administrator:
                # Names are one space over all buckets: whether one is taken tells of others'.
                raise Forbidden("only an administrator's token may rename a bucket")
            return options

        changed = await self.rest.administration.set_bucket(self.bucket.id, wanted)
        self.answer(shown(self.token, "bucket", bucket_document(changed)))

    @operation("Delete a bucket and every event in it", Deleted(), query=DeleteQuery(), statuses=(412,))
    async def delete(self, bucket: str) -> None:
        await self.rest.administration.delete_bucket(self.bucket.id, force=self.query()["force"])
        self.answer(deleted_document(self.bucket.id))


class InputsHandler(RestHandler):
    PATH = "/v1/buckets/{bucket}/inputs"

    @operation("Create an input", InputAnswer(), status=201, body=InputFields(), statuses=(412,))
    async def post(self, bucket: str) -> None:
        options = self.document()
        if not self.token.administrator:
            _check_shared(options)
        changed, made = await self.rest.administration.create_input(self.bucket.id, **options)
        self.answer(shown(self.token, "input", input_document(changed.id, made)), 201)


class InputHandler(RestHandler):
    PATH = "/v1/buckets/{bucket}/inputs/{input}"

    @operation("Change an input; absent fields stay as they are", InputAnswer(), body=InputFields(), statuses=(412,))
    async def put(self, bucket: str, input: str) -> None:
        document = _change(self)

        def wanted(now: Bucket) -> Document:
            before = input_document(now.id, find_input(now, input))
            options = changes(self.token, "input", before, document)
            if not self.token.administrator:
                _check_shared(options)
                _check_route(before, options)
            return options

        found = find_input(self.bucket, input)
        changed, made = await self.rest.administration.set_input(found.id, self.bucket.id, wanted)
        self.answer(shown(self.token, "input", input_document(changed.id, made)))

    @operation("Delete an input", Deleted(), statuses=(412,))
    async def delete(self, bucket: str, input: str) -> None:
        found = find_input(self.bucket, input)
        await self.rest.administration.delete_input(found.id, self.bucket.id)
        self.answer(deleted_document(found.id))


class OutputsHandler(RestHandler):
    PATH = "/v1/buckets/{bucket}/outputs"

    @operation("Create an output", OutputAnswer(), status=201, body=OutputFields(), statuses=(412,))
    async def post(self, bucket: str) -> None:
        options = self.document()
        if options.get("internal") is None or (_WHOLE in options and options["internal"] is False):
            # Stock clients leave out what is false, or can't, and mean a URL that the relay calls.
            options["internal"] = not is_public(options.get("destination"))
        changed, made = await self.rest.administration.create_output(self.bucket.id, **options)
        self.answer(shown(self.token, "output", output_document(changed.id, made)), 201)


class OutputHandler(RestHandler):
    PATH = "/v1/buckets/{bucket}/outputs/{output}"

    @operation("Change an output; absent fields stay as they are", OutputAnswer(), body=OutputFields(), statuses=(412,))
    async def put(self, bucket: str, output: str) -> None:
        await _set_output(self, output, _change(self))

    @operation("Delete an output", Deleted(), statuses=(412,))
    async def delete(self, bucket: str, output: str) -> None:
        found = find_output(self.bucket, output)
        await self.rest.administration.delete_output(found.id, self.bucket.id)
        self.answer(deleted_document(found.id))


class RulesHandler(RestHandler):
    PATH = "/v1/buckets/{bucket}/outputs/{output}/rules"

    @operation("Set an output's rules", OutputAnswer(), body=RulesBody(), statuses=(412,))
    async def put(self, bucket: str, output: str) -> None:
        await _set_output(self, output, {"rules": self.document()})

    @operation("Remove an output's rules: every event goes to it", OutputAnswer(), statuses=(412,))
    async def delete(self, bucket: str, output: str) -> None:
        await _set_output(self, output, {"rules": None})


class BinsHandler(RestHandler):
    """Request bins: buckets to try something, with one request."""

    PATH = "/v1/bins"

    @operation("Create a bucket that is deleted after a day unless kept", BinAnswer(), status=201, statuses=(412,))
    async def post(self) -> None:
        administration = self.rest.administration
        document = bucket_document(await administration.create_bin())
        url = f"{(administration.url or '').rstrip('/')}/v1/webhooks/{document['inputs'][0]['id']}"
        answer = {"bucket": shown(self.token, "bucket", document), "url": url, "expires_at": document["expires_at"]}
        self.answer(answer, 201)


def _change(handler: RestHandler) -> dict[str, Any]:
    """What is to be changed, without the nulls that change nothing: neither who may set a field nor what its value
    discloses is judged by them. Who writes all that a bucket or a part of it has can't leave the name out: an empty one
    is none then."""
    form = handler.endpoint.body
    assert isinstance(form, StockFields)
    document = form.given(handler.document())
    if _WHOLE in document and document.get("name") == "":
        del document["name"]
    return document


async def _set_output(handler: RestHandler, output: str, document: dict[str, Any]) -> None:
    """Changes an output of the handler's bucket by what was sent, and answers with it."""

    def wanted(now: Bucket) -> Document:
        before = output_document(now.id, find_output(now, output))
        return changes(handler.token, "output", before, _as_meant(document, before))

    found = find_output(handler.bucket, output)
    changed, made = await handler.rest.administration.set_output(found.id, handler.bucket.id, wanted)
    handler.answer(shown(handler.token, "output", output_document(changed.id, made)))


def _as_meant(document: dict[str, Any], before: Document) -> dict[str, Any]:
    """A change of an output as its client means it: one in Go leaves out the parts that are to go, and can't leave out
    that an output is not internal. A URL that the relay does not call makes it so; one that the output has already
    leaves it as it is."""
    if document.keys() >= {_WHOLE, "tls_verification"}:  # older libraries know nothing of the parts
        document = {part: None for part in _PARTS if part in before} | document
    if _WHOLE not in document or document.get("internal") is not False:
        return document
    there = before["destination"]
    destination = document.get("destination", there)
    if is_public(destination):
        return document
    return {**document, "internal": before["internal"] or destination not in (there, masked(there))}


def _check_shared(options: dict[str, Any]) -> None:
    """Raises Forbidden where a token that has only some buckets takes what all of them share."""
    for name in _SHARED:
        if options.get(name):
            raise Forbidden(f"only an administrator's token may set an input's {name}: it is shared by all buckets")


def _check_route(before: Document, options: dict[str, Any]) -> None:
    """Raises Forbidden where such a token clears one of an input's domain and prefix, and the other stays: that one
    alone matches more requests, which may be other buckets'."""
    there = [name for name in PLACE if compared(name, before[name])]
    cleared = [name for name in there if options.get(name) == ""]
    if cleared and cleared != there:
        raise Forbidden(
            "only an administrator's token may clear one of an input's custom_domain and path_prefix, since the other "
            "would match more requests: clear both"
        )


HANDLERS = (
    BucketsHandler,
    BucketHandler,
    InputsHandler,
    InputHandler,
    OutputsHandler,
    OutputHandler,
    RulesHandler,
    BinsHandler,
)
