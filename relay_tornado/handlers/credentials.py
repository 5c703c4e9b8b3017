"""Authenticates requests, by an Authorization header or by the session that a cookie names.

A browser sends cookies and remembered passwords whichever page makes the request. So requests authenticated by them are
rejected if they come from another site's page, as told by the browser's Sec-Fetch-Site and Origin. A request that may
change anything by a cookie needs the Origin.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from tornado.httputil import HTTPServerRequest, parse_cookie

from relay_tornado.admin.sessions import Session, Sessions
from relay_tornado.errors import Forbidden
from relay_tornado.handlers.tornado_connection import stream_of
from relay_tornado.ids import hash_secret
from relay_tornado.model import Token
from relay_tornado.registry.access import Access, credentials
from relay_tornado.wire.destination import origin_of
from relay_tornado.wire.headers import SESSION_COOKIE

COOKIE: Final = SESSION_COOKIE
SECURE_COOKIE: Final = f"__Host-{COOKIE}"
"""The name over TLS: no other host, and nobody on the way, can set a cookie of this name in a browser."""

_SAFE: Final = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller: a token, the hash of the secret that was used, and the session, if there is one."""

    token: Token
    secret_hash: str
    session: Session | None = None


class Callers:
    """Authenticates callers. Without `sessions`, cookies are ignored."""

    def __init__(self, access: Access, sessions: Sessions | None, public_url: str | None) -> None:
        self.access = access
        self.sessions = sessions
        self._public = origin_of(public_url or "")

    def caller(self, request: HTTPServerRequest) -> Caller:
        """The caller who makes this request. Raises Unauthorized, and Forbidden if another site's page sends it."""
        header = request.headers.get("Authorization", "")
        sent = None if header or self.sessions is None else cookie(request)
        if header or sent is not None:
            self.refuse_foreign_page(request)
        if sent is None or self.sessions is None:
            key, secret = credentials(header)
            return Caller(self.access.authenticate(key, secret), hash_secret(secret))
        if request.method not in _SAFE:
            self.refuse_without_origin(request)
        session, token = self.sessions.find(sent)
        if session.token:
            self.access.used(token)
        return Caller(token, session.secret_hash, session)

    def refuse_foreign_page(self, request: HTTPServerRequest) -> None:
        """Raises Forbidden if the browser says that another site's page makes the request."""
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        foreign = site is not None and site not in ("same-origin", "none")
        if foreign or (origin is not None and not self._own(origin, request)):
            raise Forbidden("a page of another site can't read this: serve the page from the relay's own host")

    def refuse_without_origin(self, request: HTTPServerRequest) -> None:
        """Raises Forbidden for a change if nothing says that the relay's own page requests it."""
        origin = request.headers.get("Origin")
        if origin is None or not self._own(origin, request):
            raise Forbidden(
                "with the page's cookie, or from a link, a change needs an Origin header that is this relay's own: in a"
                " script, send a token in the header Authorization"
            )

    def _own(self, origin: str, request: HTTPServerRequest) -> bool:
        host = _host(request).lower()
        # A proxy in front may speak TLS without being trusted to say so; only it can serve an https page of this host.
        schemes = ("https",) if request.protocol == "https" else ("http", "https")
        own = {self._public, *(f"{scheme}://{host}" for scheme in schemes if host)}
        return origin != "" and origin.lower() in own


def cookie(request: HTTPServerRequest) -> str | None:
    """The value of the session's cookie, or None. Over TLS only the cookie for TLS is accepted."""
    names = (SECURE_COOKIE,) if request.protocol == "https" else (SECURE_COOKIE, COOKIE)
    found = cookies(request)
    return next((found[name] for name in names if name in found), None)


def cookies(request: HTTPServerRequest) -> dict[str, str]:
    """The cookies of a request by their names. Tornado's `request.cookies` would stay as long as the request, with 200
    bytes for each byte of a hostile head."""
    return parse_cookie(request.headers.get("Cookie", ""))


def is_secure(request: HTTPServerRequest) -> bool:
    """Whether the browser speaks TLS, perhaps to a proxy: an https Origin, already found to be the relay's own, shows
    it."""
    return request.protocol == "https" or request.headers.get("Origin", "").lower().startswith("https://")


def distrusted_proxy(request: HTTPServerRequest) -> str | None:
    """The address of a nearby proxy that names the client but is not trusted; None if there is none."""
    address = request.remote_ip or ""
    if "X-Forwarded-For" not in request.headers or stream_of(request).proxied:
        return None
    return None if ipaddress.ip_address(address).is_global else address


def _host(request: HTTPServerRequest) -> str:
    return stream_of(request).forwarded_host or request.headers.get("Host", "")
