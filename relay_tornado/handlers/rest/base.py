"""The base of REST handlers: authentication, permission and the body, then the operation that the path names."""

from __future__ import annotations

import functools
from asyncio import Future
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import msgspec
from marshmallow import Schema, fields
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError
from tornado.routing import URLSpec
from tornado.web import stream_request_body

from relay_tornado.errors import Forbidden, Invalid, Overloaded, RelayError
from relay_tornado.handlers.base import JsonHandler
from relay_tornado.handlers.credentials import Caller
from relay_tornado.handlers.rest.endpoints import ENDPOINTS, Need
from relay_tornado.handlers.rest.json_body import check_size, parse
from relay_tornado.handlers.rest.service import Rest
from relay_tornado.handlers.tornado_connection import stream_of
from relay_tornado.model import MIB, Bucket, Token
from relay_tornado.transport.limits import SMALL_BODY
from relay_tornado.wire.fields import Document, load

_UNLIMITED: Final = 1 << 62
_ADMINISTRATORS: Final = (
    "only an administrator's token (every bucket, and API access) may do this: use one, or ask whoever has one"
)


@dataclass(frozen=True, slots=True)
class Operation:
    """An endpoint's properties, for the API's description."""

    summary: str
    answer: Schema | None
    status: int = 200
    query: Schema | None = None
    body: Schema | None = None
    body_optional: bool = False
    content: str = "application/json"
    """The media type of the answer."""
    statuses: tuple[int, ...] = ()
    """Errors beside those that follow from the path, the query, the body, the token and `stores`."""
    stores: bool = True
    """Whether a method other than GET stores anything, for which the disk may have no room (507)."""
    large: bool = False
    """Whether the answer may be large: the number of such answers at once is limited per token (`reads.py`)."""


_Method = Callable[..., Awaitable[None]]


def operation(summary: str, answer: Schema | None, **details: Any) -> Callable[[_Method], _Method]:
    """Makes a handler's method an endpoint; `details` are the other fields of `Operation`.

    The method runs once the request is admitted and its body has arrived.
    """

    def decorate(method: _Method) -> _Method:
        @functools.wraps(method)
        async def run(self: RestHandler, **path: str) -> None:
            self.endpoint = described
            await self.admit()
            await method(self, **path)

        described = run.operation = Operation(summary, answer, **details)  # type: ignore[attr-defined]
        return run

    return decorate


@stream_request_body
class RestHandler(JsonHandler):
    """One path of the API. `endpoint` is the requested operation, `caller` the authenticated caller, `token` the
    caller's, `bucket` the bucket that the path names, directly or by an event's id."""

    PATH: ClassVar[str]
    """As in endpoints.py: the parameters in braces become the methods' arguments."""
    MAX_BODY: ClassVar[int] = 2 * MIB
    """In bytes: an input's static body of 250 KB may take six times as much in JSON."""

    endpoint: Operation
    caller: Caller
    token: Token
    bucket: Bucket

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        methods = tuple(verb for verb in ("GET", "POST", "PUT", "DELETE") if hasattr(_method(cls, verb), "operation"))
        cls.SUPPORTED_METHODS = ("HEAD", *methods) if "GET" in methods else methods  # type: ignore[assignment]

    def initialize(self, rest: Rest) -> None:
        self.rest = rest
        self._chunks: list[bytes] = []
        self._size = self._held = 0
        self._reads: str | None = None
        self._refusal: RelayError | None = None

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    def compute_etag(self) -> None:
        """Returns None: nothing here is cached."""

    async def prepare(self) -> None:
        """Checks before the body whether it is worth reading. A refusal waits for the end of a short body, else it is
        sent at once."""
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        connection.set_max_body_size(_UNLIMITED)
        length = self.request.headers.get("Content-Length", "0")
        announced = int(length[:18]) if length.isascii() and length.isdigit() else 0
        try:
            await self._authorize()
            check_size(announced, self.MAX_BODY)
        except RelayError as error:
            if announced > SMALL_BODY:
                raise
            self._refusal = error.with_traceback(None)

    def data_received(self, chunk: bytes) -> None:
        if self._refusal is not None:
            return
        try:
            self.rest.take(len(chunk))
            self._held += len(chunk)
            self._size += len(chunk)
            self._chunks.append(chunk)
            check_size(self._size, self.MAX_BODY)
        except RelayError as error:
            self._refusal = error.with_traceback(None)
            self._let_go()

    def on_finish(self) -> None:
        self._let_go()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._let_go()
        # The error in Tornado's future refers to the frame that got it, and so to this handler.
        self.request._body_future = _cut_off()

    async def admit(self) -> None:
        """Raises the error by which the request is refused, if it is."""
        if self._refusal is not None:
            raise self._taken_refusal()
        if self._has_body():
            # The caller may have lost the permission while the body was on its way.
            await self._authorize()
        if self.endpoint.large:
            key = self.token.key
            waited = await self.rest.reads.enter(key)
            self._reads = key
            if waited:
                await self._authorize()  # or while it waited
                if stream_of(self.request).closed():
                    raise Overloaded("its client did not wait for the answer")

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        try:
            super().send_error(status_code, **kwargs)
        finally:
            # There may be no memory for an error's answer either.
            self._leave()

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Future[None]:
        """Sends the answer. A large one counts towards the token's limit until its client has read it, or is gone."""
        if self._reads is None:
            return super().finish(chunk)
        stream = stream_of(self.request)
        try:
            written = super().finish(chunk)
            stream.when_written(self._leave)
        except BaseException:
            self._leave()
            raise
        return written

    def answer(self, document: Any, status: int = 200) -> None:
        """Finishes the response with a JSON document, which may be large."""
        self.set_status(status)
        self.finish(msgspec.json.encode(document) + b"\n")

    # the request's parts, for operations

    def document(self, *, cut: bool = False) -> dict[str, Any]:
        """The body as a JSON object; `cut` as in `parse`. Raises Invalid and WrongType."""
        headers = self.request.headers
        return parse(
            b"".join(self._chunks), headers.get("Content-Type", ""), headers.get("Content-Encoding", ""), cut=cut
        )

    def given(self) -> Document:
        """The body as read by the endpoint's form; empty if the body is optional and absent. Raises Invalid and
        WrongType."""
        assert self.endpoint.body is not None
        absent = self.endpoint.body_optional and not self._size
        return load(self.endpoint.body, {} if absent else self.document())

    def query(self) -> Document:
        """The query's parameters as read by the endpoint's form. The last value of a repeated one is used; unknown ones
        are ignored. Raises Invalid."""
        schema = self.endpoint.query
        assert schema is not None
        given = {}
        for attribute, field in schema.fields.items():
            name = field.data_key or attribute
            values = self.request.query_arguments.get(name)
            # Clients that can't leave a parameter out send it with an empty value.
            if values and (values[-1] or isinstance(field, fields.String)):
                try:
                    given[name] = values[-1].decode()
                except UnicodeDecodeError:
                    raise Invalid("is not UTF-8", name) from None
        return load(schema, given)

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """A decoded part of the path. Raises Invalid."""
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Invalid("is not UTF-8 once its %-escapes are decoded", name or "path") from None

    # authorization and errors

    def _taken_refusal(self) -> RelayError:
        """The refusal, which the handler then keeps no longer: once raised, it refers to frames that refer back."""
        refusal, self._refusal = self._refusal, None
        assert refusal is not None
        return refusal

    def _has_body(self) -> bool:
        headers = self.request.headers
        return "Transfer-Encoding" in headers or headers.get("Content-Length", "0") != "0"

    async def _authorize(self) -> None:
        method = "GET" if self.request.method == "HEAD" else self.request.method or ""
        need = ENDPOINTS[method, self.PATH].need
        if need is Need.NOTHING:
            return
        self.caller = self.rest.callers.caller(self.request)
        self.token = self.caller.token
        if need is not Need.ANSWER and not self.token.api_access:
            raise Forbidden(
                "this token has no API access: it can only connect, and answer events; use one with "
                "API access, or ask whoever has one"
            )
        if need is Need.ADMINISTRATOR:
            self.refuse_unless_administrator()
        if need is Need.BUCKET:
            self.bucket = self.rest.stored.bucket(self.token, self.path_kwargs["bucket"])
        elif need in (Need.EVENT, Need.ANSWER):
            self.bucket = (await self.rest.stored.locate(self.token, self.path_kwargs["log"])).bucket

    def refuse_unless_administrator(self) -> None:
        """Raises Forbidden for a token that has only some buckets."""
        if not self.token.administrator:
            raise Forbidden(_ADMINISTRATORS)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        stream = stream_of(self.request)
        if stream.receiving:
            # Tornado closes the connection after an answer that comes before the request has been read to its end.
            self.set_header("Connection", "close")
            stream.linger()
        super().write_error(status_code, **kwargs)

    def _leave(self) -> None:
        key, self._reads = self._reads, None
        if key is not None:
            self.rest.reads.leave(key)

    def _let_go(self) -> None:
        held, self._held = self._held, 0
        self.rest.give_back(held)
        self._chunks = []


def _cut_off() -> Future[None]:
    """The future of a body that comes no more."""
    future: Future[None] = Future()
    future.set_exception(StreamClosedError())
    future.exception()  # else asyncio logs that nobody looked at it
    return future


def _method(handler: type[RestHandler], verb: str) -> Any:
    return getattr(handler, verb.lower())


def operations(handler: type[RestHandler]) -> dict[str, Operation]:
    """A handler's endpoints by their methods."""
    return {verb: _method(handler, verb).operation for verb in handler.SUPPORTED_METHODS if verb != "HEAD"}


def route(handler: type[RestHandler], rest: Rest) -> URLSpec:
    """The handler's route. A slash may follow: the original's first API description had one after each id, and clients
    were generated from it."""
    pattern = handler.PATH.replace(".", r"\.").replace("{", "(?P<").replace("}", ">[^/]+)")
    return URLSpec(f"{pattern}/?", handler, {"rest": rest})
