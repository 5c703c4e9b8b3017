"""A registry in memory only, for rehearsals and tests; and the index of records that SQLite's registry shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias, TypeVar

import structlog

from relay_tornado.errors import Conflict, Invalid
from relay_tornado.low_memory import retry_until_done
from relay_tornado.model import Bucket, Token
from relay_tornado.registry.contract import Changed, Kind

_log = structlog.get_logger(__name__)

_Place: TypeAlias = tuple[str, str]
"""An input's custom_domain and path_prefix."""

_T = TypeVar("_T")

KINDS: dict[Kind, type[Any]] = {"bucket": Bucket, "token": Token}


class Records:
    """All records with their revisions, the owners of names, input ids and places, and the watchers of changes."""

    def __init__(self) -> None:
        self._records: dict[Kind, dict[str, tuple[Any, int]]] = {kind: {} for kind in KINDS}
        self._names: dict[str, str] = {}
        self._inputs: dict[str, str] = {}
        self._places: dict[_Place, str] = {}
        self._secrets: dict[str, str] = {}
        self._watchers: list[Changed] = []

    def get(self, kind: Kind, key: str) -> Any | None:
        found = self._records[kind].get(key)
        return None if found is None else found[0]

    def find_bucket(self, reference: str) -> Bucket | None:
        return self.get("bucket", reference) or self.get("bucket", self._names.get(reference, ""))

    def revision(self, kind: Kind, key: str) -> int:
        found = self._records[kind].get(key)
        return 0 if found is None else found[1]

    def list(self, kind: Kind) -> Sequence[Any]:
        return [record for record, _ in self._records[kind].values()]

    def watch(self, changed: Changed) -> Callable[[], None]:
        self._watchers.append(changed)

        def end() -> None:
            if changed in self._watchers:
                self._watchers.remove(changed)

        return end

    def check(self, kind: Kind, key: str, value: Any, expect: int | None) -> int:
        """The revision that a put would return. Raises Conflict, and Invalid if the value is not the key's record."""
        if not isinstance(value, KINDS[kind]) or key != (value.id if kind == "bucket" else value.key):
            raise Invalid(f"this is not the {kind} {key}")
        revision = self.check_revision(kind, key, expect)
        if isinstance(value, Bucket):
            if self._names.get(value.name, key) != key:
                raise Conflict(f"the name {value.name!r} is taken; choose another one")
            for input_id, times in Counter(made.id for made in value.inputs).items():
                if self._inputs.get(input_id, key) != key or times > 1:
                    raise Conflict(f"the input id {input_id} is taken; choose another one")
            for place, times in Counter(_places_of(value)).items():
                if self._places.get(place, key) != key or times > 1:
                    domain, prefix = place
                    where = " and ".join(filter(None, (domain, prefix and f"path_prefix {prefix}")))
                    raise Conflict(f"another input has {where}: choose another custom_domain or path_prefix")
        elif self._secrets.get(value.secret_hash, key) != key:
            raise Conflict("another token has this secret; make a new one")
        return revision + 1

    def check_revision(self, kind: Kind, key: str, expect: int | None) -> int:
        """The record's revision. Raises Conflict if it is not the expected one."""
        revision = self.revision(kind, key)
        if expect is not None and expect != revision:
            state = "is there already" if expect == 0 else "was changed meanwhile; look at it again"
            raise Conflict(f"the {kind} {key} {state}")
        return revision

    def store(self, kind: Kind, key: str, value: Any, revision: int) -> None:
        """Applies a committed record. May be repeated if it fails half-way."""
        self._unindex(kind, key)
        if isinstance(value, Bucket):
            self._names[value.name] = key
            for made in value.inputs:
                self._inputs[made.id] = key
            self._places.update((place, key) for place in _places_of(value))
        else:
            self._secrets[value.secret_hash] = key
        self._records[kind][key] = (value, revision)

    def discard(self, kind: Kind, key: str) -> bool:
        """Applies a committed removal. Returns whether the record existed."""
        self._unindex(kind, key)
        return self._records[kind].pop(key, None) is not None

    def _unindex(self, kind: Kind, key: str) -> None:
        old = self.get(kind, key)
        if isinstance(old, Bucket):
            _release(self._names, old.name, key)
            for made in old.inputs:
                _release(self._inputs, made.id, key)
            for place in _places_of(old):
                _release(self._places, place, key)
        elif old is not None:
            _release(self._secrets, old.secret_hash, key)

    def tell(self, kind: Kind, key: str) -> None:
        """Calls every watcher; one that runs out of memory is called again."""
        for changed in tuple(self._watchers):
            try:
                retry_until_done(changed, kind, key)
            except Exception:
                _log.exception("registry_watcher_failed", kind=kind)


def _places_of(bucket: Bucket) -> list[_Place]:
    """Where the bucket's inputs are found, beside their ids."""
    return [(made.custom_domain, made.path_prefix) for made in bucket.inputs if made.custom_domain or made.path_prefix]


def _release(index: dict[_T, str], name: _T, key: str) -> None:
    if index.get(name) == key:
        del index[name]


class MemoryRegistry(Records):
    """See `registry.contract.Registry`; nothing outlives the process."""

    async def traces(self) -> Collection[str]:
        return self._records["bucket"].keys()

    async def put(self, kind: Kind, key: str, value: Any, expect: int | None = None) -> int:
        revision = self.check(kind, key, value, expect)
        self.store(kind, key, value, revision)
        self.tell(kind, key)
        return revision

    async def delete(self, kind: Kind, key: str, expect: int | None = None) -> None:
        if self.get(kind, key) is not None:
            self.check_revision(kind, key, expect)
        if self.discard(kind, key):
            self.tell(kind, key)
