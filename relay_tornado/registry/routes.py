"""Finds the input that a request is for: by the id in an ingest URL, or by an input's own domain and path prefix.

The index is in memory, and follows the registry's changes.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from relay_tornado.model import Bucket, BucketId, Input
from relay_tornado.registry.contract import Kind, Registry

Route: TypeAlias = tuple[Bucket, Input]

RESERVED: Final = ("/v1", "/healthz", "/readyz", "/metrics", "/openapi.json", "/ui")
"""The relay's own paths. No input may have one of them, or a path below."""


class Routes:
    """Finds an input by its id, or by Host and path. `revision` grows with every change, so that anything derived from
    a route can be discarded when it may be out of date."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._by_input: dict[str, Route] = {}
        self._inputs_of: dict[BucketId, tuple[Input, ...]] = {}
        self._places: dict[str, dict[bytes, Route]] = {}
        """The inputs with a domain or prefix of their own, by both; the domain "" stands for every host."""
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

        Inputs of that host take precedence over those of every host; among them the longest prefix wins.
        """
        if not self._places or any(_covers(own, path) for own in _RESERVED):
            return None
        for each in (_domain(host), ""):
            prefixes = self._places.get(each, {})
            for length in sorted({len(prefix) for prefix in prefixes}, reverse=True):
                route = prefixes.get(path[:length])
                if route is not None and _covers(path[:length], path):
                    found = route[1]
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
            # After several changes, another bucket may have its id or its place.
            if self._by_input[each.id][0].id == key:
                del self._by_input[each.id]
            prefixes, prefix = self._places.get(each.custom_domain, {}), each.path_prefix.encode()
            if prefix in prefixes and prefixes[prefix][0].id == key:
                del prefixes[prefix]
                if not prefixes:
                    del self._places[each.custom_domain]
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
            route = self._by_input[each.id] = (bucket, each)
            if each.custom_domain or each.path_prefix:
                self._places.setdefault(each.custom_domain, {})[each.path_prefix.encode()] = route


_RESERVED: Final = tuple(path.encode() for path in RESERVED)


def _covers(prefix: bytes, path: bytes) -> bool:
    """Whether the path is this one, or below it."""
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/")


def _domain(host: str) -> str:
    """A Host header's name in the form of a `custom_domain`, without its port."""
    return host.strip().lower().partition(":")[0].removesuffix(".")
