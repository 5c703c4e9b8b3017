"""The server's certificate: loaded with errors that say what is wrong, and reloaded when its files change.

Each load makes a new context, which only new connections use; open ones keep theirs. Loading into the current context
would not work: OpenSSL keeps one certificate for each type of key, so after a change from RSA to ECDSA or back some
clients would still get the old one.
"""

from __future__ import annotations

import asyncio
import ssl
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog

from relay_tornado.errors import StartupError
from relay_tornado.model import DAY

POLL_INTERVAL: Final = 1.0
WARN_BEFORE: Final = 10 * DAY
"""Seconds before its end from which a certificate causes a warning when it is loaded."""

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_NO_CHECK_TIME: Final = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which the ssl module does not name: an expired certificate only causes a
warning."""

_FLIGHTS: Final = 6
"""More than a handshake needs."""

_log = structlog.get_logger(__name__)


class Certificate:
    """A certificate with its key. Use `context` anew for each connection.

    `expires` is unix seconds. `problem` says why the current files can't be used, "" if they are in use. The first load
    raises StartupError if they can't be used.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._seen = self._look()
        self.problem = ""
        self.context, self.expires = self._load()
        self._warn()

    def reload(self) -> None:
        """Loads the files, for new connections. If they can't be used (see `problem`), the earlier certificate stays in
        use: a renewal is often half done when it is first seen."""
        self._seen = self._look()
        try:
            self.context, self.expires = self._load()
        except StartupError as error:
            if str(error) != self.problem:
                self.problem = str(error)
                _log.error("certificate_not_loaded", problem=self.problem)
            return
        self.problem = ""
        _log.info("certificate_loaded", file=str(self._certificate), days_left=self._days_left())
        self._warn()

    async def watch(self, interval: float = POLL_INTERVAL) -> None:
        """Reloads when a file has changed, and repeatedly while the files can't be used, until it is cancelled."""
        while True:
            await asyncio.sleep(interval)
            if self.problem or self._look() != self._seen:
                self.reload()

    def _load(self) -> tuple[ssl.SSLContext, float]:
        if b"-----BEGIN CERTIFICATE-----" not in _read(self._certificate, "--tls-cert"):
            raise StartupError(f"{self._certificate} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
        _read(self._key, "--tls-key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, password=self._no_password)
            seen = _shake_hands(context, self._certificate)
        except (ssl.SSLError, OSError) as error:
            raise StartupError(self._meaning(error)) from error
        return context, float(ssl.cert_time_to_seconds(seen["notAfter"]))

    def _no_password(self) -> str:
        # Without this, OpenSSL would ask for a password on the terminal, and wait.
        raise StartupError(
            f"the key in {self._key} is encrypted; write it without its password: openssl pkey -in {self._key} -out …"
        )

    def _meaning(self, error: Exception) -> str:
        reason = getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            return f"the key in {self._key} does not belong to the first certificate in {self._certificate}"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"no client would accept the certificate in {self._certificate}: {error.verify_message}"
        return (
            f"{self._certificate} and {self._key} can't be used ({reason or error}): --tls-cert has to name a"
            " certificate with its intermediates in PEM form, --tls-key its key"
        )

    def _look(self) -> tuple[tuple[int, ...], ...]:
        """Changes when a file is replaced or written."""
        return tuple(_signature(path) for path in (self._certificate, self._key))

    def _days_left(self) -> int:
        return int((self.expires - time.time()) // DAY)

    def _warn(self) -> None:
        left = self.expires - time.time()
        if left <= 0:
            _log.warning("certificate_expired", file=str(self._certificate), days_ago=-self._days_left())
        elif left < WARN_BEFORE:
            _log.warning("certificate_expires_soon", file=str(self._certificate), days_left=self._days_left())


def _signature(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read(path: Path, flag: str) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would block until somebody writes to it
            raise StartupError(f"{path} is a directory, a pipe or a device; {flag} has to name a file")
        return path.read_bytes()
    except FileNotFoundError:
        raise StartupError(f"there is no file {path}, which {flag} names") from None
    except OSError as error:
        raise StartupError(
            f"{path}, which {flag} names, can't be read ({error.strerror}); the relay's own user has to be able to"
        ) from error


def _shake_hands(context: ssl.SSLContext, certificate: Path) -> Any:
    """The certificate that a client sees if it trusts only this one, in memory. Raises ssl.SSLError."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(cafile=certificate)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(down, up), context.wrap_bio(up, down, server_side=True))
    for _ in range(_FLIGHTS):
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[0].getpeercert()
