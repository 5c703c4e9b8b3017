"""Every setting of the server, once: its type, default, unit and meaning.

`relay serve` makes a flag and a `RELAY_…` variable of each field (`max_body`: `--max-body`, `RELAY_MAX_BODY`), and a
test holds docs/settings.md against them. Sizes are bytes and may be written 3MiB, 10GiB or 250KB; times are seconds
and may be written 90, 30s, 10m, 24h or 30d; "none" switches an optional limit off.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from relay_tornado.errors import Invalid
from relay_tornado.model import DAY, GIB, KIB, MIB

Unit: TypeAlias = Literal["bytes", "seconds"]


def _setting(default: Any, help: str, unit: Unit | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "unit": unit})


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration of one relay. `dataclasses.replace` makes a changed one."""

    # where
    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(8080, "Port to listen on; 0 picks a free one.")
    data: Path = _setting(Path("relay-data"), "Directory that holds relay.db; created if missing.")
    public_url: str | None = _setting(
        None, "URL under which senders reach the relay, for the URLs that commands print."
    )
    proxy_trust: str | None = _setting(
        None, "Addresses and ranges of trusted proxies, whose X-Forwarded-For, -Proto and -Host are believed."
    )
    tls_cert: Path | None = _setting(None, "Certificate with its intermediates (PEM); the port then speaks HTTPS.")
    tls_key: Path | None = _setting(None, "The certificate's key (PEM, without a password).")
    metrics_host: str = _setting("127.0.0.1", "Address of the separate port for metrics.")
    metrics_port: int | None = _setting(None, "Port that serves /metrics without a token; 0 picks a free one.")
    no_ui: bool = _setting(False, "Serve no page under /ui/.")
    log_format: Literal["auto", "console", "json"] = _setting(
        "auto", "Format of the log on stderr: console (for people), json, or auto: console on a terminal, else json."
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "Lowest level that is logged.")

    # ingest
    transport: Literal["direct", "tornado"] = _setting(
        "direct", "What reads webhooks from plain connections: the relay itself (direct), or Tornado."
    )
    max_body: int = _setting(3 * MIB, "Largest body of a webhook; a larger one gets 413.", "bytes")
    large_max_body: int = _setting(10 * MIB, "The same for a bucket with large_webhooks.", "bytes")
    max_header: int = _setting(32 * KIB, "Largest request head; a larger one gets 431.", "bytes")
    body_timeout: float = _setting(30.0, "How long a body may take to arrive.", "seconds")
    head_timeout: float = _setting(10.0, "How long a request head may take, from its first byte on.", "seconds")
    idle_timeout: float = _setting(75.0, "How long a connection may wait for its first or next request.", "seconds")
    max_connections: int | None = _setting(None, "Most open connections; none: what the limit of descriptors allows.")
    ingest_buffer: int = _setting(128 * MIB, "Memory for all bodies on their way in; beyond it 503.", "bytes")
    reserve: int = _setting(
        256 * MIB, "Free disk space at which webhooks get 507; an eighth of a disk smaller than 8 times this.", "bytes"
    )

    # the log
    append_queue: int = _setting(64 * MIB, "Memory for events that wait for a commit; beyond it 503.", "bytes")
    commit_events: int = _setting(256, "Most events in one commit.")
    commit_bytes: int = _setting(8 * MIB, "Most bytes in one commit.", "bytes")
    tail: int = _setting(64 * MIB, "Memory for recent events of all buckets, with their encoded frames.", "bytes")
    page_cache: int = _setting(64 * MIB, "Memory for older events, for clients that catch up.", "bytes")
    retention_age: float | None = _setting(30 * DAY, "Retention of a new bucket by age.", "seconds")
    retention_events: int | None = _setting(None, "Retention of a new bucket by number of events.")
    retention_bytes: int | None = _setting(10 * GIB, "Retention of a new bucket by size.", "bytes")
    retention_interval: float = _setting(60.0, "How often the relay looks for old events.", "seconds")
    retention_grace: float = _setting(600.0, "How long after a start nothing is removed by age.", "seconds")

    # the page
    search_index: int | None = _setting(2 * GIB, "Largest search index; none: no index.", "bytes")

    # backups
    backup_dir: Path | None = _setting(None, "Directory for automatic backups; created if missing.")
    backup_every: float = _setting(DAY, "How often a backup is made.", "seconds")
    backup_keep: int = _setting(7, "How many backups are kept; older ones are removed once a new one is made.")

    # sockets
    max_sockets: int = _setting(10_000, "Most WebSockets in all; further ones are closed with 4029.")
    max_sockets_per_address: int = _setting(
        1_000, "Most WebSockets of one address (IPv6: one /64; loopback is not counted); further ones: 4029."
    )
    auth_timeout: float = _setting(10.0, "How long a socket may take to authenticate.", "seconds")
    ping_interval: float = _setting(20.0, "How often a socket is pinged.", "seconds")
    stuck_timeout: float = _setting(40.0, "How long without a sign of life until a socket is closed (4008).", "seconds")
    max_message: int = _setting(1 * MIB, "Largest message from an authenticated client; 8 KiB before that.", "bytes")
    replay_buffer: int = _setting(128 * MIB, "Memory for frames on their way out to all sockets.", "bytes")

    # public outputs
    forward_allow: str | None = _setting(None, "Ranges of non-public addresses that public outputs may send to.")
    forward_requests: int = _setting(100, "Most requests to destinations at once, beyond one for each public output.")
    forward_buffer: int = _setting(64 * MIB, "Memory for large events on their way to destinations.", "bytes")

    drain_timeout: float = _setting(8.0, "How long accepted requests may take at a shutdown, until the end.", "seconds")


def flag(field: dataclasses.Field[Any]) -> str:
    """`--max-body` for `max_body`."""
    return "--" + field.name.replace("_", "-")


def variable(field: dataclasses.Field[Any]) -> str:
    """`RELAY_MAX_BODY` for `max_body`."""
    return "RELAY_" + field.name.upper()


_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZES |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": DAY, "w": 7 * DAY}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")


def parse_size(text: str) -> int:
    """Bytes of "3MiB", "250KB" or "1048576". Raises Invalid."""
    return int(_parse(text, _SIZES, "a size like 1048576, 250KB, 3MiB or 10GiB"))


def parse_duration(text: str) -> float:
    """Seconds of "90", "30s", "10m", "24h" or "30d". Raises Invalid."""
    return _parse(text, _TIMES, "a time like 90, 30s, 10m, 24h or 30d")


def _parse(text: str, units: dict[str, Any], form: str) -> float:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2].lower() not in units:
        raise Invalid(f"{text!r} is not {form}")
    quantity = float(match[1]) * float(units[match[2].lower()])
    if math.isinf(quantity):
        raise Invalid(f"{text!r} is not {form}")
    return quantity
