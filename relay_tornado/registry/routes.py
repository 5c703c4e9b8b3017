"""Which bucket an input's URL feeds: an index in memory, kept right by the registry's changes."""

from __future__ import annotations

from typing import TypeAlias

from relay_tornado.model import Bucket, BucketId, Input
from relay_tornado.registry.contract import Kind, Registry

Route: TypeAlias = tuple[Bucket, Input]


class Routes:
    """Finds an input by its id. `revision` grows with every change, so that what was derived from a route can be
    thrown away when it may be out of date."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._by_input: dict[str, Route] = {}
        self._inputs_of: dict[BucketId, tuple[str, ...]] = {}
        self.revision = 0
        registry.watch(self._changed)
        for bucket in registry.list("bucket"):
            self._enter(bucket)

    def find(self, input_id: str) -> Route | None:
        """The bucket and the input with this id, or None."""
        return self._by_input.get(input_id)

    def _changed(self, kind: Kind, key: str) -> None:
        if kind != "bucket":
            return
        self.revision += 1
        for input_id in self._inputs_of.pop(key, ()):
            del self._by_input[input_id]
        bucket = self._registry.get("bucket", key)
        if bucket is not None:
            self._enter(bucket)

    def _enter(self, bucket: Bucket) -> None:
        self._inputs_of[bucket.id] = tuple(each.id for each in bucket.inputs)
        for each in bucket.inputs:
            self._by_input[each.id] = (bucket, each)
