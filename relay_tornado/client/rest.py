"""The client's only HTTP request: the answer to an event, for relays without `respond`, and for large bodies."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from http.client import HTTPException

from relay_tornado.client import messages
from relay_tornado.client.address import Address
from relay_tornado.client.aside import aside
from relay_tornado.client.errors import Rejected
from relay_tornado.client.link import USER_AGENT, passes
from relay_tornado.client.opener import opener
from relay_tornado.client.options import Options


async def put_answer(
    address: Address, options: Options, id: str, status: int, body: bytes, headers: dict[str, list[str]], timeout: float
) -> None:
    """`PUT /v1/logs/{id}`. Raises Rejected, and OSError if the same request may succeed later. If this is cancelled,
    nothing waits for the request."""
    document = json.dumps(messages.put_log(id, status, body, headers)).encode()
    await aside(lambda: _put(address, options, id, document, timeout), "relay client answer")


def _put(address: Address, options: Options, id: str, document: bytes, timeout: float) -> None:
    credentials = base64.b64encode(f"{options.key}:{options.secret}".encode()).decode()
    request = urllib.request.Request(  # noqa: S310  # from an address that was checked
        address.log(id),
        document,
        {"Authorization": f"Basic {credentials}", "Content-Type": "application/json", "User-Agent": USER_AGENT},
        method="PUT",
    )
    handlers: list[urllib.request.BaseHandler] = []
    if options.proxy is not True:
        proxies = {} if options.proxy is None else {"http": options.proxy, "https": options.proxy}
        handlers.append(urllib.request.ProxyHandler(proxies))
    context = options.ssl or ssl.create_default_context() if address.secure else None
    try:
        with opener(context, *handlers).open(request, timeout=timeout) as response:
            response.read()
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, OSError):
            raise error.reason from None
        raise OSError(str(error.reason)) from None
    except HTTPException as error:
        raise OSError(f"the answer to PUT is not whole: {error!r}") from None


def _refusal(error: urllib.error.HTTPError) -> Rejected | OSError:
    """The error to raise: OSError if the status may pass and a relay gives no other reason, as a proxy's 502."""
    code, message = str(error.code), f"PUT of the answer: {error.code} {error.reason}"
    try:
        document = json.loads(error.read())
        code, message = str(document.get("code", code)), str(document["message"])
    except (ValueError, RecursionError, KeyError, AttributeError, TypeError, OSError, HTTPException):
        pass
    return OSError(message) if code == str(error.code) and passes(error.code) else Rejected(code, message)
