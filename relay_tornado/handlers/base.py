"""The base of JSON handlers: errors as JSON, a Request-Id for each answer, and log lines without URIs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final

import structlog
from tornado.httputil import HTTPServerRequest
from tornado.util import ObjectDict
from tornado.web import Application, HTTPError, RequestHandler

from relay_tornado.errors import Invalid, NotFound, RelayError, Unauthorized

_BEARER = 'Bearer realm="relay"'

NO_UI: Final = ObjectDict()
"""What handlers have in place of Tornado's `ui`, for templates, which the relay does not use. Tornado's refers to its
handler."""

_log = structlog.get_logger(__name__)
_WORDS = {
    400: ("invalid", "the request could not be understood"),
    404: ("not_found", "there is nothing at this path"),
    405: ("method_not_allowed", "this path does not take that method"),
}


class JsonHandler(RequestHandler):
    """The base of the relay's handlers. Every answer has a Request-Id, and every error a JSON body with `code` and
    `message`."""

    SUPPORTED_METHODS = ("GET", "HEAD")

    def __init__(self, application: Application, request: HTTPServerRequest, **kwargs: Any) -> None:
        super().__init__(application, request, **kwargs)
        self.ui = NO_UI

    def set_default_headers(self) -> None:
        self.set_header("Request-Id", uuid.uuid4().hex)
        self.set_header("Content-Type", "application/json")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.clear_header("Server")

    def answer(self, document: Any, status: int = 200) -> None:
        """Finishes the response with a JSON document."""
        self.set_status(status)
        self.finish(json.dumps(document) + "\n")

    def head(self, *args: str, **kwargs: str) -> Any:
        return self.get(*args, **kwargs)

    def challenges(self) -> Iterable[str]:
        """The challenges of a 401. Basic is left out for a page: the browser would ask its user for a password."""
        headers = self.request.headers
        page = headers.get("User-Agent", "").startswith("Mozilla/") and "text/html" not in headers.get("Accept", "")
        return (_BEARER,) if page else ('Basic realm="relay", charset="UTF-8"', _BEARER)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, Unauthorized):
            for challenge in self.challenges():
                self.add_header("WWW-Authenticate", challenge)
        code, message = _WORDS.get(status_code, ("internal", "the relay failed on this request; its log says why"))
        if isinstance(error, RelayError):
            code, message = error.code, str(error) or message
            self.set_status(error.status)
            if error.retry_after is not None:
                self.set_header("Retry-After", str(error.retry_after))
        elif isinstance(error, HTTPError) and status_code not in _WORDS and status_code < 500:
            code, message = "invalid", error.reason or "the request could not be understood"
        if status_code == 405:
            methods = ", ".join(self.SUPPORTED_METHODS)
            self.set_header("Allow", methods)
            message = f"this path does not take the method {self.request.method:.20}; it takes {methods}"
        document = {"code": code, "message": message}
        if isinstance(error, Invalid) and error.field:
            document["field"] = error.field
        self.answer(document, self.get_status())

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        if not isinstance(value, HTTPError | RelayError):
            _log.error("handler_failed", handler=type(self).__name__, exc_info=value)


class NotFoundHandler(JsonHandler):
    """Answers every request that has no route, whatever its method; `hint` says what there is."""

    def initialize(self, hint: str) -> None:
        self._hint = hint

    def prepare(self) -> None:
        raise HTTPError(404)

    def write_error(self, status_code: int, **_: Any) -> None:
        error = NotFound(f"{_WORDS[404][1]}: {self._hint}")
        super().write_error(404, exc_info=(NotFound, error, None))


def log_request(handler: RequestHandler) -> None:
    """The Application's `log_function`: names the handler, never the URI, which may hold a secret."""
    _log.debug(
        "request",
        handler=type(handler).__name__,
        method=handler.request.method,
        status=handler.get_status(),
        seconds=round(handler.request.request_time(), 4),
    )
