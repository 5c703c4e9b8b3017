"""An event's destination: an output's URL with the path and query behind the input's URL appended, as request bytes.

`masked` is the URL for readers who may not see its login and its query's values.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import unquote, unquote_to_bytes, urlsplit, urlunsplit

from relay_tornado.errors import Invalid

MASK: Final = "***"
"""Replaces a part that the reader may not see."""

_HOST: Final = re.compile(r"[0-9A-Za-z._:%~-]+")
_NO_HOST: Final = "{!r} is no host that can be looked up: look for a slip in its name"
_LABEL: Final = 63
"""Characters between two dots of a name, at most (RFC 1035, 2.3.4)."""
_NAME: Final = 253
_NOT_IN_PLACE: Final = re.compile(r"[\s\x00-\x1f\x7f]")
_DIVIDES: Final = re.compile(rb"[/\\]")
_END: Final = re.compile(rb"[;?#\x00]")
"""To some servers, one of these ends the path segment, and what follows is something else, for example a parameter."""
_PASSED_OVER: Final = bytes(range(1, 0x21)) + b"+"
"""Characters that some servers drop from a decoded path, by WHATWG's rules for URLs: tabs and line ends anywhere
(Python, too); the others and spaces at the end (Node, Java and .NET). A + counts, too, where it is decoded as a
space."""
_NO_BREAK: Final = re.compile(rb"\xc2\xa0|\xef\xbb\xbf")
"""U+A0 and U+FEFF, which Node's url.resolve takes for spaces."""
_UNICODE: Final = re.compile(rb"%u([0-9A-Fa-f]{4})")
"""A character's code, as Jetty and IIS read it in a path, outside any standard."""
_NOT_IN_TARGET: Final = re.compile(rb"[\x00-\x20\x7f]")
_NOT_PUBLIC: Final = frozenset(
    (
        "localhost",
        "local",
        "localdomain",
        "internal",
        "lan",
        "home",
        "corp",
        "private",
        "arpa",
        "test",
        "invalid",
        "svc",
    )
)
"""Last labels of names that are resolved only within a network."""
_ONCE_OTHERS: Final = re.compile(r"[ßẞς\u200c\u200d]")
"""Letters that IDNA 2003, which Python implements, maps to others, and IDNA 2008 keeps."""
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Destination:
    """An output's URL in its parts. `host` is the name to look up, `authority` the Host header, `login` the value of an
    Authorization header (or ""); `path` begins with a slash."""

    scheme: str
    host: str
    port: int
    authority: str
    login: str
    path: bytes
    query: bytes

    @property
    def tls(self) -> bool:
        return self.scheme == "https"

    @property
    def server_name(self) -> str:
        """The name that the server's certificate must be valid for."""
        return self.host.rstrip(".").partition("%")[0]


def origin_of(url: str) -> str:
    """A URL's scheme, host and port in the form of a browser's Origin, without its possibly secret parts; "" if it is
    none that can be called."""
    try:
        found = parse(url)
    except Invalid:
        return ""
    return f"{found.scheme}://{found.authority}"


def parse(url: str, field: str = "destination") -> Destination:
    """Raises Invalid, naming the field, if it is no http or https URL that can be called."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
        host = parts.hostname or ""
    except ValueError:
        # Python's message quotes the URL, which may hold a password.
        raise Invalid("is no URL: look at its host and its port", field) from None
    if parts.scheme not in _PORTS or not host or port == 0:
        raise Invalid("must be an http or https URL", field)
    if _NOT_IN_PLACE.search(parts.netloc):
        raise Invalid("has a blank in its host or its login: write it there as %20", field)
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError:
            raise Invalid(_NO_HOST.format(host), field) from None
    if not _HOST.fullmatch(host) or not (":" in host or _is_name(host)):
        raise Invalid(_NO_HOST.format(host), field)
    login = ""
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        login = "Basic " + b64encode(f"{user}:{password}".encode()).decode()
    shown = f"[{host.partition('%')[0]}]" if ":" in host else host
    default = _PORTS[parts.scheme]
    return Destination(
        parts.scheme,
        host,
        default if port is None else port,
        shown if port in (None, default) else f"{shown}:{port}",
        login,
        _safe(parts.path.encode()) or b"/",
        _safe(parts.query.encode()),
    )


def parse_new(url: str, field: str = "destination") -> Destination:
    """As `parse`, for a URL that is set now: it also rejects a host that would be looked up under another name. Stored
    URLs may have one, and keep going where they went. Raises Invalid, naming the field."""
    destination = parse(url, field)
    host = urlsplit(url.strip()).hostname or ""
    if _ONCE_OTHERS.search(host):
        raise Invalid(f"{host!r} would be looked up as another name: write it as it is in ASCII (xn--…)", field)
    return destination


def is_public(url: Any) -> bool:
    """Whether this is an http or https URL whose host, by its name or address, is on the internet."""
    try:
        host = parse(url).server_name.lower() if isinstance(url, str) else ""
    except Invalid:
        return False
    try:
        return ip_address(host).is_global
    except ValueError:
        return "." in host and host.rpartition(".")[2] not in _NOT_PUBLIC


def masked(url: str) -> str:
    """The URL with `MASK` for its login and the values of its query; unchanged if it has neither."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return MASK
    place = parts.netloc
    if "@" in place:
        place = f"{MASK}@{place.rpartition('@')[2]}"
    query = "&".join(_masked_value(each) for each in parts.query.split("&")) if parts.query else ""
    return (
        url if (place, query) == (parts.netloc, parts.query) else urlunsplit(parts._replace(netloc=place, query=query))
    )


def _masked_value(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}={MASK}" if equals else MASK


def target(destination: Destination, path: bytes, query: bytes, *, lock_path: bool) -> bytes:
    """The request target for an event with this raw path and query. With `lock_path` the path is left out.

    Raises Invalid if the path would leave the destination's own by "..".
    """
    base = destination.path
    if path and not lock_path:
        if climbs(path):
            raise Invalid("the event's path climbs out of the destination's by '..'")
        base = joined_paths(base, path)
    queries = joined_queries(destination.query, query)
    return _safe(base) + (b"?" + _safe(queries) if queries else b"")


def joined_paths(own: bytes, path: bytes) -> bytes:
    """A destination's own path with an event's behind it. The slash between the two is the event's."""
    return own.removesuffix(b"/") + (path if path.startswith(b"/") else b"/" + path)


def joined_queries(own: bytes, query: bytes) -> bytes:
    """A destination's own query and an event's, either of which may be empty."""
    return b"&".join(each for each in (own, query) if each)


def climbs(path: bytes) -> bool:
    """Whether any server could take the path, decoded once or twice, to lead outside its beginning. If so, anybody who
    knows an input's URL could reach the whole of a server instead of one part.

    Servers differ in the characters that separate segments, and in whether they look for parameters before or after
    decoding. So a segment counts as a level only if every server takes it for one, and as ".." if any does.
    """
    if (b"." not in path and b"%" not in path) or b".." not in _decoded(path):
        return False
    depth = 0
    for part in path.split(b"/"):
        inner = [_END.split(each, 1)[0] for each in _DIVIDES.split(_decoded(part))]
        if above := inner.count(b".."):
            depth -= above
        elif inner[0] not in (b"", b"."):
            depth += 1
        if depth < 0:
            return True
    return False


def _decoded(path: bytes) -> bytes:
    for _ in range(2):
        path = unquote_to_bytes(_UNICODE.sub(_character, path.translate(None, _PASSED_OVER)))
    return _NO_BREAK.sub(b"", path.translate(None, _PASSED_OVER))


def _character(found: re.Match[bytes]) -> bytes:
    return chr(int(found[1], 16)).encode(errors="surrogatepass")


def _is_name(host: str) -> bool:
    """Whether it can be looked up, judging by the lengths of the name and its labels."""
    return len(host) <= _NAME and all(0 < len(label) <= _LABEL for label in host.removesuffix(".").split("."))


def _safe(part: bytes) -> bytes:
    """The same, with characters that would break a request line percent-encoded; everything else is unchanged."""
    return _NOT_IN_TARGET.sub(lambda found: b"%%%02X" % found[0][0], part)
