"""Access to the relay's socket for commands that read events: at `--url` with a token's secret, or for the relay of a
data directory with a token that the command creates and revokes at its end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from relay_tornado.cli.client import call, open_relay, remote_given
from relay_tornado.cli.options import Decorator, OptionOf, together
from relay_tornado.cli.printing import Document, note
from relay_tornado.errors import RelayError, Unavailable
from relay_tornado.model import DAY, UNTIL_IT_ENDS

LIFE: Final = 7 * DAY
"""Lifetime of the command's token in seconds, should it not be revoked; then the relay removes it. A long-running
command extends it, but not while its machine is suspended, as over a weekend."""
EVERY: Final = 3600.0
"""Seconds between two extensions."""


class _Said(logging.Handler):
    """Prints what the client logs as notes, escaped, as it quotes the relay, which may not be trusted."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


_SAID: Final = _Said()


@dataclass(frozen=True, slots=True)
class Access:
    """The relay's base URL (http or https) and the credentials; `key` None: the secret alone. `silent` says why
    nothing comes from a named bucket, for each of which that is so; with `--url` nobody asks."""

    url: str
    key: str | None
    secret: str = field(repr=False)
    silent: Sequence[str] = ()


def stock_options(option: OptionOf) -> Decorator:
    """Adds `--stock` and `--key` to a command."""
    return together(
        option("--stock", is_flag=True, help="Speak only the stock protocol, to any Webhook Relay server."),
        option("--key", help="The token's key, if the server requires it."),
    )


def refuse_with_stock(given: Mapping[str, Any]) -> None:
    """Raises UsageError if one of these options is given (its value, by its flag, is not None)."""
    for flag, value in given.items():
        if value is not None:
            raise click.UsageError(f"{flag} is an extension of this relay, and --stock sends none: leave one out")


@contextmanager
def open_access(data: Path, what: str, buckets: Sequence[str] = (), key: str | None = None) -> Iterator[Access]:
    """Yields the access for a command. `what` ("relay forward") describes its own token, which may read `buckets` (all
    if empty); `key` belongs to the secret for `--url`. Raises RelayError and UsageError."""
    logging.getLogger("relay_tornado.client").addHandler(_SAID)
    remote = remote_given()
    if remote is not None:
        yield Access(remote.url, key, remote.secret())
        return
    if key is not None:
        raise click.UsageError("--key goes with --url and a secret: the relay on this machine needs neither")
    with open_relay(data) as relay:
        info = relay.call("relay.info")
        if not info.get("address"):
            raise Unavailable(f"no relay runs on {data}: start it with `relay serve`, or name one with --url")
        # Raises NotFound in a command's words.
        silent = [why for each in buckets if (why := _silent(relay.call("bucket.show", bucket=each)))]
    with (
        own_token(partial(call, data), what, buckets, api_access=True, life=LIFE) as made,
        _prolonged(data, made["key"]),
    ):
        yield Access(_near(info), made["key"], made["secret"], silent)


@contextmanager
def own_token(
    call: Callable[..., Any], what: str, buckets: Sequence[str], *, api_access: bool, life: float
) -> Iterator[Document]:
    """Yields a token (`key` and `secret`) that a command creates for itself by `call`, and revokes at its end; if it is
    killed, the relay removes the token, which expires after `life` seconds. For the rest see `open_access`."""
    options: Document = {
        "description": what + UNTIL_IT_ENDS,
        "buckets": list(buckets) or None,
        "api_access": api_access,
        "expires_at": time.time() + life,
    }
    made: Document = call("token.create", options=options)
    try:
        yield made
    finally:
        with suppress(RelayError, OSError):
            call("token.revoke", key=made["key"])


def _silent(bucket: Document) -> str | None:
    """Why a bucket sends nothing to a client that takes the copies for its outputs; None if it sends something."""
    if not bucket["stream"]:
        return f"the stream of {bucket['name']} is off, so nothing comes from it"
    outputs = bucket["outputs"]
    if outputs and not any(each["internal"] and not each["disabled"] for each in outputs):
        return f"{bucket['name']} has outputs, but no internal one that is enabled, so nothing comes from it"
    return None


@contextmanager
def _prolonged(data: Path, key: str) -> Iterator[None]:
    """Extends the lifetime of a token regularly while the block runs."""
    ended = threading.Event()

    def put_off() -> None:
        while not ended.wait(EVERY):
            with suppress(RelayError, OSError):
                call(data, "token.set", key=key, options={"expires_at": time.time() + LIFE})

    thread = threading.Thread(target=put_off, name="token", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _near(info: Document) -> str:
    """The relay's address itself; with TLS the public URL, for which the certificate is."""
    address: str = info["address"]
    return info["url"] or address if address.startswith("https:") else address
