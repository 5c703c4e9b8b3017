"""Events that somebody makes: by hand, edited from another one, or a provider's sample; and one sent to a URL."""

from __future__ import annotations

import base64
import re
import time
from typing import Any, Final

from marshmallow import Schema, ValidationError, fields

from relay_tornado.admin import samples
from relay_tornado.admin.lookup import named, output_of
from relay_tornado.errors import Invalid
from relay_tornado.handlers.rest.answer_fields import flag, header_map, integer, text
from relay_tornado.handlers.rest.base import RestHandler, operation
from relay_tornado.ids import format_id, new_uuid
from relay_tornado.log.lineage import position_id
from relay_tornado.model import MIB, Bucket, Input
from relay_tornado.wire.fields import Text, described
from relay_tornado.wire.headers import canonical, decode, is_name, is_value

MAX_MADE: Final = 16 * MIB
"""Bytes of an event that is made, as JSON, its body in base64."""

_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40}")
_PATH: Final = re.compile(r"""(/[!"$->@-~]*)?""")
_QUERY: Final = re.compile(r"""[!"$-~]*""")
_BASE64: Final = re.compile("([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_OWN: Final = frozenset({"Content-Length", "Transfer-Encoding", "Connection", "Host"})
"""Headers that say how a request was sent, which this one was not."""


def _matching(pattern: re.Pattern[str], message: str, default: str, about: str) -> fields.String:
    def check(value: str) -> None:
        if not pattern.fullmatch(value):
            raise ValidationError(message)

    metadata = described(about, pattern=f"^{pattern.pattern}$")
    said: dict[str, Any] = {"invalid": "must be a string."}
    return fields.String(load_default=default, validate=check, error_messages=said, metadata=metadata)


class _Body(fields.Field[bytes]):
    """Bytes in base64."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bytes:
        if not isinstance(value, str) or not _BASE64.fullmatch(value):
            raise ValidationError("must be base64.")
        return base64.b64decode(value)


class _Headers(fields.Field[list[tuple[str, str]]]):
    """Pairs of a name and a value, in their order."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[tuple[str, str]]:
        if not isinstance(value, list) or len(value) > 200:
            raise ValidationError("must be a list of at most 200 pairs [name, value].")
        made = []
        for each in value:
            if not isinstance(each, list) or len(each) != 2 or not all(isinstance(part, str) for part in each):
                raise ValidationError("must be a list of pairs [name, value].")
            name, content = each
            if len(name) > 200 or not is_name(name):
                raise ValidationError(f"{name[:80]!r} is no header name.")
            if not is_value(content):
                raise ValidationError(f"the value of {name} holds a line end or another control character.")
            made.append((name, content))
        return made


def _reference(about: str) -> Text:
    return Text(1_000, load_default="", allow_none=True, metadata=described(about))


_PAIR: Final[dict[str, Any]] = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "string"}}


class MadeBody(Schema):
    input = _reference("The id or name of the input that the event comes in by; empty means the bucket's first.")
    method = _matching(_METHOD, "must be a method like POST.", "POST", "The method of the request.")
    path = _matching(
        _PATH,
        "must be empty, or begin with a slash; escape what can't stand in a URL.",
        "",
        "What follows the input in the URL, escaped, with its leading slash; or empty.",
    )
    query = _matching(
        _QUERY,
        "must be what follows the ? in a URL; escape what can't stand there.",
        "",
        "What follows the `?` in the URL, escaped.",
    )
    headers = _Headers(
        load_default=list,
        metadata=described(
            "Pairs of a name and a value, in their order. The relay adds Content-Length.",
            type="array",
            maxItems=200,
            items=_PAIR,
            examples=[[["Content-Type", "application/json"]]],
        ),
    )
    body_base64 = _Body(
        load_default=b"", metadata=described("The body in base64.", type="string", pattern=f"^{_BASE64.pattern}$")
    )
    edited_from = Text(
        100,
        load_default="",
        allow_none=True,
        metadata=described("The id of the event of this bucket that this one is an edited copy of; empty is none."),
    )
    output = _reference("The id or name of the one output that the event goes to; empty: as any event.")


class SampleBody(Schema):
    provider = Text(100, required=True, metadata=described("The sample's provider."))
    event = Text(100, required=True, metadata=described("The provider's name of the event."))
    input = _reference(
        "The id or name of the input that the event comes in by; empty means one that checks this provider's "
        "signatures, or the bucket's first."
    )


class SendBody(Schema):
    url = Text(2_048, required=True, metadata=described("The http or https URL that the event is sent to."))


class CreatedEvent(Schema):
    id = text("The event's id; a duplicate's is that of the first one.")


class CreatedSampleEvent(CreatedEvent):
    signed = flag("True if signed with the input's secret.")


class SampleAnswer(Schema):
    provider = text("The sample's provider.")
    event = text("The provider's name of the event.")
    title = text("What happened, for people.")


class SendResult(Schema):
    """What a URL answered."""

    status_code = integer("The status code of the answer.")
    duration_ms = integer("How many milliseconds the answer took.")
    response_headers = header_map("The headers of the answer, by name.")
    response_body = text("The body of the answer in base64, at most 64 KiB of it.")


class MadeHandler(RestHandler):
    PATH = "/v1/buckets/{bucket}/events"
    MAX_BODY = MAX_MADE

    @operation(
        "Store an event that was written by hand, or edited from another one",
        CreatedEvent(),
        status=201,
        body=MadeBody(),
    )
    async def post(self, bucket: str) -> None:
        given = self.given()
        body: bytes = given["body_base64"]
        original, target = None, None
        if given["edited_from"]:
            located = await self.rest.stored.locate(self.token, given["edited_from"])
            if located.bucket.id != self.bucket.id:
                raise Invalid("is an event of another bucket", "edited_from")
            original = position_id(located.bounds, located.seq)  # also where a copy of it was named
        if given["output"]:
            target = output_of(self.bucket, given["output"]).n
        appended = await self.rest.ingest.make(
            _input(self.bucket, given["input"] or "").id,
            given["method"],
            given["path"].encode(),
            given["query"].encode(),
            block(given["headers"], body),
            body,
            self.request.remote_ip or "",
            resend_of=original,
            target=target,
            edited=original is not None,
        )
        self.answer({"id": format_id(appended.epoch, appended.seq)}, 201)


class SamplesHandler(RestHandler):
    PATH = "/v1/samples"

    @operation("List the sample events of providers", SampleAnswer(many=True))
    async def get(self) -> None:
        self.answer([{"provider": each.provider, "event": each.event, "title": each.title} for each in samples.SAMPLES])


class SampleHandler(RestHandler):
    PATH = "/v1/buckets/{bucket}/samples"

    @operation(
        "Store a provider's sample, signed if the input checks its signatures",
        CreatedSampleEvent(),
        status=201,
        body=SampleBody(),
    )
    async def post(self, bucket: str) -> None:
        given = self.given()
        sample = samples.find(given["provider"], given["event"])
        into = _input(self.bucket, given["input"] or "", sample.provider)
        secret = ""
        # GitLab's signature is the secret itself, which only an administrator's token may read.
        shown = sample.provider != "gitlab" or self.token.administrator
        if into.verify is not None and into.verify.provider == sample.provider and shown:
            secret = into.verify.secrets[0]
        made = samples.make(sample, secret, time.time(), new_uuid())
        appended = await self.rest.ingest.make(
            into.id, "POST", b"", b"", block(made.headers, made.body), made.body, self.request.remote_ip or ""
        )
        self.answer({"id": format_id(appended.epoch, appended.seq), "signed": bool(secret)}, 201)


class SendHandler(RestHandler):
    PATH = "/v1/logs/{log}/send"

    @operation(
        "Send an event to a URL at once, and return the answer",
        SendResult(),
        body=SendBody(),
        statuses=(412, 502),
        stores=False,
    )
    async def post(self, log: str) -> None:
        url = self.given()["url"]
        found = await self.rest.logs.event(self.token, log)
        answer, seconds = await self.rest.forwarding.send(found, url)
        named: dict[str, list[str]] = {}
        for name, value in answer.headers:
            named.setdefault(canonical(decode(name)), []).append(decode(value))
        self.answer(
            {
                "status_code": answer.status,
                "duration_ms": round(seconds * 1000),
                "response_headers": named,
                "response_body": base64.b64encode(answer.body).decode(),
            }
        )


def block(headers: list[tuple[str, str]], body: bytes) -> bytes:
    """A header block as it is stored, with the body's length."""
    lines = [(name, value) for name, value in headers if canonical(name) not in _OWN]
    lines.append(("Content-Length", str(len(body))))
    return b"".join(f"{name}: {value}\r\n".encode() for name, value in lines)


def _input(bucket: Bucket, reference: str, provider: str = "") -> Input:
    """The bucket's input with this id or name; "" is one that checks the provider's signatures, or the first. Raises
    Invalid."""
    if found := named(bucket.inputs, reference):
        return found[0]
    if reference or not bucket.inputs:
        what = f"no input {reference[:100]!r}: name one by its id or name" if reference else "no input: make one first"
        raise Invalid(f"the bucket {bucket.name!r} has {what}", "input")
    checking = (each for each in bucket.inputs if each.verify is not None and each.verify.provider == provider)
    return next(checking, bucket.inputs[0])


HANDLERS = (MadeHandler, SamplesHandler, SampleHandler, SendHandler)
