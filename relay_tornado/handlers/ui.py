"""The page under /ui/: its files, and the sessions of its users."""

from __future__ import annotations

import math
import re
import time
from typing import Any, Final

import structlog
from tornado.routing import URLSpec
from tornado.web import HTTPError, RedirectHandler

import relay_tornado
from relay_tornado.admin.administration import Administration
from relay_tornado.admin.sessions import Session, Sessions
from relay_tornado.counters import Counters
from relay_tornado.errors import Forbidden, Invalid, TooMany, Unauthorized
from relay_tornado.handlers.assets import INDEX, Asset, Assets
from relay_tornado.handlers.base import JsonHandler
from relay_tornado.handlers.credentials import (
    COOKIE,
    SECURE_COOKIE,
    Callers,
    cookie,
    cookies,
    distrusted_proxy,
    is_secure,
)
from relay_tornado.handlers.rest.json_body import check_size, parse
from relay_tornado.model import KIB, RateLimit, Token
from relay_tornado.proxy_trust import counted_address
from relay_tornado.rate_limits import Attempts

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
FAILURES: Final = RateLimit(20, 60.0)
"""The number of wrong secrets or codes allowed per address."""
MAX_ADDRESSES: Final = 10_000
MAX_BODY: Final = 8 * KIB

_YEAR: Final = 31_536_000
_VERSIONED: Final = re.compile(r"v-([0-9a-f]{12})/(.+)")
_NO_WEIGHT: Final = re.compile(r"q=0(\.0*)?", re.IGNORECASE)

_log = structlog.get_logger(__name__)


class _Handler(JsonHandler):
    """The base of all of /ui/: only the relay's own content may be run, shown or sent."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")

    def compute_etag(self) -> None:
        """Does nothing: handlers set the tags that they have."""


class PageHandler(_Handler):
    """The page itself, whichever part of it the path names, and its files."""

    def initialize(self, assets: Assets) -> None:
        self._assets = assets

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """A path that is not UTF-8 names no part of the page, and the page says so; Tornado would answer 400."""
        return value.decode(errors="replace")

    def get(self, path: str) -> None:
        """`path` is what follows /ui/."""
        if not path.startswith("static/"):
            self._send(self._assets.find(INDEX), lasting=False)
            return
        name = path.removeprefix("static/")
        versioned = _VERSIONED.fullmatch(name)
        lasting = versioned is not None and versioned[1] == self._assets.version
        self._send(self._assets.find(versioned[2] if versioned else name), lasting=lasting)

    def _send(self, asset: Asset | None, *, lasting: bool) -> None:
        if asset is None:
            raise HTTPError(404)
        packed = asset.compressed
        self.set_header("Content-Type", asset.type)
        self.set_header("Cache-Control", f"public, max-age={_YEAR}, immutable" if lasting else "no-cache")
        self.set_header("Vary", "Accept-Encoding")
        if packed is not None and _takes_gzip(self.request.headers.get("Accept-Encoding", "")):
            self.set_header("Content-Encoding", "gzip")
            self.set_header("ETag", f'"{asset.tag}-gz"')
        else:
            packed = asset.body
            self.set_header("ETag", f'"{asset.tag}"')
        if self.check_etag_header():
            self.set_status(304)
            self.finish()
            return
        self.finish(packed)


def _takes_gzip(accepted: str) -> bool:
    weights = {}
    for each in accepted.split(","):
        coding, _, weight = each.partition(";")
        weights[coding.strip().lower()] = weight.strip()
    weight = weights.get("gzip", weights.get("*", "q=0"))  # `*` is any coding that is not named (RFC 9110, 12.5.3)
    return not _NO_WEIGHT.fullmatch(weight)


class SessionHandler(_Handler):
    """Signing in, signing out, and who is signed in."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "DELETE")  # type: ignore[assignment]

    def initialize(
        self,
        callers: Callers,
        sessions: Sessions,
        administration: Administration,
        attempts: Attempts,
        counters: Counters,
        told: set[str],
    ) -> None:
        self._callers = callers
        self._sessions = sessions
        self._administration = administration
        self._attempts = attempts
        self._counters = counters
        self._told = told

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    def challenges(self) -> tuple[()]:
        """No challenges: this is where users sign in."""
        return ()

    def get(self) -> None:
        """Answers who is signed in."""
        self._callers.refuse_foreign_page(self.request)
        session, token = self._sessions.find(cookie(self.request) or "")
        self._tell(session, token)

    async def post(self) -> None:
        """Signs in with `secret`, a token's, or with `code`, from a link that was printed."""
        self._only_from_the_page()
        self._tell_of_proxy()
        address = counted_address(self.request.remote_ip or "") or "local"
        wait = self._attempts.wait(address, time.monotonic())
        if wait:
            seconds = math.ceil(wait)
            raise TooMany(f"too many wrong secrets from your address: try again in {seconds} s", seconds)
        try:
            value, session, token = await self._begin()
        except Unauthorized:
            self._attempts.failed(address, time.monotonic())
            raise
        before = cookie(self.request)
        if before is not None:
            await self._sessions.end(before)
        secure = is_secure(self.request)
        self.set_cookie(
            SECURE_COOKIE if secure else COOKIE,
            value,
            max_age=int(session.expires_at - session.created_at),
            httponly=True,
            secure=secure,
            samesite="Strict",
        )
        self._tell(session, token)

    async def delete(self) -> None:
        """Signs out."""
        self._only_from_the_page()
        value = cookie(self.request)
        if value is not None:
            await self._sessions.end(value)
        for name, secure in ((COOKIE, False), (SECURE_COOKIE, True)):
            if name in cookies(self.request):
                self.clear_cookie(name, httponly=True, secure=secure, samesite="Strict")
        self.answer({"status": "signed out"})

    def _only_from_the_page(self) -> None:
        self._callers.refuse_foreign_page(self.request)
        self._callers.refuse_without_origin(self.request)

    def _tell_of_proxy(self) -> None:
        """Warns once of a proxy that is not trusted: its clients count as one, so one person's wrong secrets lock out
        all."""
        address = distrusted_proxy(self.request)
        if address is not None and not self._told:
            self._told.add(address)
            _log.warning(
                "proxy_not_trusted",
                address=address,
                consequence="all clients behind it count as one address, and share one limit of wrong secrets",
                remedy=f"name it: --proxy-trust {address}",
            )

    async def _begin(self) -> tuple[str, Session, Token]:
        check_size(len(self.request.body), MAX_BODY)
        document = parse(self.request.body, self.request.headers.get("Content-Type", ""))
        secret, code = document.get("secret"), document.get("code")
        if isinstance(code, str) and secret is None:
            try:
                value, session = await self._sessions.redeem(code)
            except Unauthorized:
                self._counters.auth_failures += 1
                raise
            return value, session, self._sessions.find(value)[1]
        if not isinstance(secret, str) or code is not None:
            raise Invalid(
                'send a token\'s secret, or a link\'s code: {"secret": …} or {"code": …}', "secret", named=True
            )
        token = self._callers.access.by_secret(secret)
        if not token.api_access:
            raise Forbidden("this token has no API access, so it can't sign in: it can only connect. Use another one")
        value, session = await self._sessions.begin(token, secret)
        return value, session, token

    def _tell(self, session: Session, token: Token) -> None:
        administration = self._administration
        names = None
        if token.buckets is not None:
            names = [bucket.name for bucket in administration.list_buckets() if token.reads(bucket.id)]
        document: dict[str, Any] = {
            "key": token.key,
            "description": token.description,
            "administrator": token.administrator,
            "api_access": token.api_access,
            "buckets": names,
            "expires_at": int(session.expires_at),
            "version": relay_tornado.__version__,
            "public_url": administration.url,
            "demo": administration.demo,
        }
        self.answer(document)


class _ToThePage(JsonHandler, RedirectHandler):
    """Redirects to the page from URLs that a user tries who only knows the relay's address."""

    def get(self, *args: Any) -> None:
        self.clear_header("Content-Type")
        super().get(*args)


def routes(callers: Callers, administration: Administration, counters: Counters) -> list[URLSpec]:
    """No routes if nobody can sign in: then there is no page."""
    sessions = callers.sessions
    if sessions is None:
        return []
    session = {
        "callers": callers,
        "sessions": sessions,
        "administration": administration,
        "attempts": Attempts(FAILURES, MAX_ADDRESSES),
        "counters": counters,
        "told": set[str](),
    }
    return [
        URLSpec("/", _ToThePage, {"url": "/ui/", "permanent": False}),
        URLSpec("/ui", _ToThePage, {"url": "/ui/", "permanent": False}),
        URLSpec("/ui/session", SessionHandler, session),
        URLSpec("/ui/(.*)", PageHandler, {"assets": Assets()}),
    ]
