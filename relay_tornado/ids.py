"""Public identifiers: epochs, event ids (which are also cursors), uuids and tokens' secrets."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import uuid
import zlib

from relay_tornado.errors import Invalid
from relay_tornado.model import Cursor

_EPOCH_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID = re.compile(r"([a-z0-9]{12})-(0|[1-9][0-9]{0,18})(?:-([1-9][0-9]{0,9}))?")
SECRET_PREFIX = "sk-rly_"  # noqa: S105 - of every secret, and none itself
"""The prefix of every token's secret, by which one is recognised where it should not be."""


def new_epoch() -> str:
    """12 random characters of [a-z0-9] (62 bits)."""
    return "".join(secrets.choice(_EPOCH_ALPHABET) for _ in range(12))


def new_uuid() -> str:
    return str(uuid.uuid4())


def format_id(epoch: str, seq: int, output: int | None = None) -> str:
    """`<epoch>-<seq>`, or `<epoch>-<seq>-<n>` for the copy that goes to output n."""
    return f"{epoch}-{seq}" if output is None else f"{epoch}-{seq}-{output}"


def parse_id(text: str) -> Cursor:
    """The cursor of an event id. Raises Invalid if the text does not have the form of one."""
    match = _ID.fullmatch(text)
    if match is None:
        raise Invalid(f"{text[:80]!r} is no event id: it has the form <epoch>-<seq>, like k3v9x1q7m2ab-42")
    output = match[3]
    return Cursor(match[1], int(match[2]), None if output is None else int(output))


def _base62(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


def new_secret() -> str:
    """A token's secret: `sk-rly_`, 43 random base62 characters (256 bits), and their CRC32 as 6 more."""
    random = "".join(secrets.choice(_BASE62) for _ in range(43))
    return f"{SECRET_PREFIX}{random}{_base62(zlib.crc32(random.encode()), 6)}"


def new_signing_secret() -> str:
    """A secret to sign requests with by Standard Webhooks: `whsec_`, and 256 random bits in base64."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def hash_secret(secret: str) -> str:
    """A secret in its stored form: its SHA-256, in hex. The secret has 256 random bits, so no salt is needed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
