"""Finds the input that a request is for: by the id in an ingest URL, or by an input's own domain and path prefix.

The index is in memory, and follows the registry's changes.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias
from urllib.parse import quote

from relay_tornado.model import Bucket, BucketId, Input
from relay_tornado.registry.contract import Kind, Registry

Route: TypeAlias = tuple[Bucket, Input]

RESERVED: Final = ("/v1", "/healthz", "/readyz", "/metrics", "/openapi.json", "/ui")
"""The relay's own paths. No input may have one of them, or a path below."""

_PLAIN: Final = "/%:@!$&'()*+,;=~-._"
"""Characters that are unescaped in a path; all others are percent-encoded on the wire."""


class _Place(NamedTuple):
    """Where an input is reached besides its ingest URL. The host "" stands for every host."""

    host: str
    prefix: bytes


class Routes:
    """Finds an input by its id, or by Host and path. `revision` grows with every change, so that anything derived from
    a route can be discarded when it may be out of date."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._by_input: dict[str, Route] = {}
        self._inputs_of: dict[BucketId, tuple[Input, ...]] = {}
        self._places: dict[str, dict[bytes, list[str]]] = {}
        self.revision = 0
        registry.watch(self._changed)
        self._read()

    def find(self, input_id: str) -> Route | None:
        """The bucket and the input with this id, or None."""
        return self._by_input.get(input_id)

    def bucket(self, bucket_id: BucketId) -> Bucket | None:
        """The bucket with this id, or None."""
        return self._registry.get("bucket", bucket_id)

    def locate(self, host: str, path: bytes) -> tuple[Input, bytes] | None:
        """The input for requests with this Host header and path (raw, without query), and the path to store with the
        event; None if there is no such input.

        Inputs of that host take precedence over those of every host; among them the longest prefix wins, and the oldest
        input if prefixes are equal.
        """
        if not self._places or _covers(_RESERVED, path):
            return None
        for each in (_host(host), ""):
            prefixes = self._places.get(each)
            if prefixes:
                for length in sorted({len(prefix) for prefix in prefixes}, reverse=True):
                    if path[length : length + 1] in (b"", b"/") and (ids := prefixes.get(path[:length])):
                        inputs = (self._by_input[input_id][1] for input_id in ids)
                        found = min(inputs, key=lambda one: (one.created_at, one.id))
                        rest = path[length:] if found.strip_path_prefix else path
                        # Every request has a path, so "/" counts as none.
                        return found, b"" if path == b"/" else rest
        return None

    def _changed(self, kind: Kind, key: str) -> None:
        if kind != "bucket":
            return
        self.revision += 1
        try:
            self._follow(key)
        except Exception:
            # The change may be half applied, and senders would be told that there is no such input.
            self._read()
            raise

    def _follow(self, key: BucketId) -> None:
        for each in self._inputs_of.pop(key, ()):
            if self._by_input[each.id][0].id == key:  # after several changes, another bucket may have it
                del self._by_input[each.id]
            place = _place(each)
            if place is not None:
                prefixes = self._places[place.host]
                prefixes[place.prefix].remove(each.id)
                if not prefixes[place.prefix]:
                    del prefixes[place.prefix]
                if not prefixes:
                    del self._places[place.host]
        bucket = self._registry.get("bucket", key)
        if bucket is not None:
            self._enter(bucket)

    def _read(self) -> None:
        """Rebuilds the index from the registry."""
        self._by_input, self._inputs_of, self._places = {}, {}, {}
        for bucket in self._registry.list("bucket"):
            self._enter(bucket)

    def _enter(self, bucket: Bucket) -> None:
        self._inputs_of[bucket.id] = tuple(bucket.inputs)
        for each in bucket.inputs:
            self._by_input[each.id] = (bucket, each)
            place = _place(each)
            if place is not None:
                self._places.setdefault(place.host, {}).setdefault(place.prefix, []).append(each.id)


_RESERVED: Final = tuple(path.encode() for path in RESERVED)


def _covers(prefixes: tuple[bytes, ...], path: bytes) -> bool:
    return any(path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/") for prefix in prefixes)


def _place(input: Input) -> _Place | None:
    host = _ascii(_host(input.custom_domain))
    prefix = quote(input.path_prefix.strip("/"), safe=_PLAIN).encode()
    if not host and not prefix:
        return None
    return _Place(host, b"/" + prefix if prefix else b"")


def _host(text: str) -> str:
    """A Host without its port, in the form in which names are compared."""
    name = text.strip().lower()
    if not name.startswith("["):
        name = name.partition(":")[0]
    elif "]" in name:
        name = name[: name.index("]") + 1]
    return name.removesuffix(".")


def _ascii(name: str) -> str:
    """A configured domain in the form of a Host header. Hosts of requests are never converted: a long name takes 0.2 s,
    and matches nothing."""
    if name.isascii():
        return name
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        return name
