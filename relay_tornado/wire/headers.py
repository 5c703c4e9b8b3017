"""Raw header blocks as frames show them: canonical names, values in order, no hop-by-hop headers.

Names are spelled as Go's net/textproto.CanonicalMIMEHeaderKey does, as in the original's frames. Left out are the
headers that Go's net/http removes from a request (Host, Transfer-Encoding, Trailer), and those that its reverse proxy
drops as hop-by-hop. Content-Length stays: the original's frames have it, and it is true of the body.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, TypeAlias

_TOKEN = frozenset(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~")
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
HOP_BY_HOP: Final = frozenset(
    (
        *("keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    )
)
"""Names (in lower case) of hop-by-hop headers, beside those that a Connection header names."""
_HOP_BY_HOP = frozenset(name.title() for name in HOP_BY_HOP)
SESSION_COOKIE: Final = "relay_session"
"""The session cookie of the relay's page; over TLS with the prefix `__Host-`."""
_SESSION: Final = SESSION_COOKIE.encode()
_COOKIES: Final = re.compile(rb"^(cookie:)([^\r\n]*)(\r?\n)", re.IGNORECASE | re.MULTILINE)
_SESSIONS: Final = frozenset((_SESSION, b"__Host-" + _SESSION))
_OWS: Final = " \t\r"
"""Surrounds a value: optional white space (RFC 9110, section 5.6.3), and the CR before the line end."""

_LINES: Final = 1024
_LINE: Final = 48
"""The number of lines in the cache, and the longest one cached: most of a sender's lines recur in each request."""

_Field: TypeAlias = tuple[str, tuple[str]]
_fields: dict[str, _Field] = {}
"""Maps a line to its name as frames spell it ("" if they leave it out), and its value."""


def is_name(text: str) -> bool:
    """Whether the text is a token, as RFC 9110 requires of a field name."""
    return text != "" and _TOKEN.issuperset(text)


def is_value(text: str) -> bool:
    """Whether a header can have this value: no line end or other control character, no half of a surrogate pair."""
    return _NOT_IN_VALUE.search(text) is None


def parse(block: bytes) -> list[tuple[bytes, bytes]]:
    """A raw header block as (name, value) in the order of its lines.

    Values come without the white space around them; a folded line (obs-fold) is joined to the previous one by a space.
    A line without a name is skipped.
    """
    fields: list[tuple[bytes, bytes]] = []
    for line in block.split(b"\n"):
        if line[:1] in (b" ", b"\t"):
            more = line.strip(b" \t\r")
            if more and fields:
                name, value = fields[-1]
                fields[-1] = (name, value + b" " + more if value else more)
            continue
        name, colon, value = line.partition(b":")
        name = name.strip(b" \t\r")
        if colon and name:
            fields.append((name, value.strip(b" \t\r")))
    return fields


def named_by_connection(fields: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """Names (in lower case) of further hop-by-hop headers, as listed by its Connection headers."""
    values = (value for name, value in fields if name.lower() == b"connection")
    return {name.strip().lower() for value in values for name in value.split(b",")}


def without_session(block: bytes) -> bytes:
    """A raw header block without the session cookie of the relay's page. Browsers send the cookie to every URL of the
    relay, and a reader of events must not be able to sign in with it."""
    return _COOKIES.sub(_others, block) if _SESSION in block else block


def _others(line: re.Match[bytes]) -> bytes:
    name, value, end = line.groups()
    kept = [each for each in value.split(b";") if each.partition(b"=")[0].strip() not in _SESSIONS]
    return b"%b%b%b" % (name, b";".join(kept), end) if kept else b""


def decode(raw: bytes) -> str:
    """Bytes of a head as text: UTF-8 if valid, else Latin-1."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def by_name(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    """Headers as text: the values of each name, in order."""
    headers: dict[str, list[str]] = {}
    for name, value in fields:
        headers.setdefault(decode(name), []).append(decode(value))
    return headers


def is_utf8(raw: bytes) -> bool:
    """Whether bytes are UTF-8. If not, encoding the text from `decode` as Latin-1 gives the bytes back."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def latin1(block: bytes) -> list[str]:
    """The values of a block that `for_frame` shows as Latin-1, in the form of `meta.latin1`: the header's name if all
    of its values are, else `<name>:<index>`."""
    marks: dict[str, list[bool]] = {}
    for name, value in parse(block):
        marks.setdefault(canonical(decode(name)), []).append(not is_utf8(value))
    shown = for_frame(block)[0]
    told: list[str] = []
    for spelling, each in marks.items():
        if spelling in shown:
            told += [spelling] if all(each) else [f"{spelling}:{at}" for at, marked in enumerate(each) if marked]
    return told


def canonical(name: str) -> str:
    """`content-type` as `Content-Type`; a name that is no token (RFC 9110, section 5.6.2) stays as it is."""
    if not _TOKEN.issuperset(name):
        return name
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


def is_shown(spelling: str) -> bool:
    """Whether frames show a header of this canonical name, unless a Connection header lists it."""
    return spelling not in _HOP_BY_HOP and spelling not in ("", "Host", "Connection")


def for_frame(block: bytes) -> tuple[dict[str, tuple[str, ...]], str]:
    """A header block in the form of a webhook frame, {"Content-Type": ("text/plain",), …}, and its Host (or "")."""
    if block.isascii() and b"\n " not in block and b"\n\t" not in block:
        lines = block.decode("ascii").split("\n")
    else:
        lines = [f"{decode(name)}:{decode(value)}" for name, value in parse(block)]
    shown: dict[str, tuple[str, ...]] = {}
    repeats: dict[str, list[str]] = {}
    for line in lines:
        field = _fields.get(line)
        if field is None:
            field = _read(line)
        spelling, value = field
        if spelling in shown:
            repeats.setdefault(spelling, []).extend(value)
        else:
            shown[spelling] = value
    for spelling, values in repeats.items():
        shown[spelling] += tuple(values)
    shown.pop("", None)
    host = shown.pop("Host", ("",))[0]
    for value_of_connection in shown.pop("Connection", ()):
        for name in value_of_connection.split(","):
            shown.pop(canonical(name.strip(_OWS)), None)
    return shown, host


def _read(line: str) -> _Field:
    name, colon, value = line.partition(":")
    if not colon:
        spelling = ""
    elif len(name) <= _LINE:
        spelling = _spelling(name)
    else:
        spelling = _spelling.__wrapped__(name)
    field = (spelling, (value.strip(_OWS),))
    if len(line) <= _LINE:
        if len(_fields) >= _LINES:
            _fields.clear()
        _fields[line] = field
    return field


@lru_cache(maxsize=_LINES)
def _spelling(name: str) -> str:
    spelling = canonical(name.strip(_OWS))
    return "" if spelling in _HOP_BY_HOP else spelling
