"""Resolves the bucket names in the relay's messages: a bucket may be renamed, and another one may get its name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from relay_tornado.client.messages import parse_position
from relay_tornado.client.positions import REMEMBERED, drop_oldest


class Names:
    """Resolves a name by the epoch in its position, since an epoch belongs to one bucket for good, or else by the
    name."""

    def __init__(self) -> None:
        self._named: dict[str, str] = {}
        self._epochs: dict[str, str] = {}

    def learn(self, name: str, bucket_id: str, epoch: str) -> None:
        """Notes that the bucket has this name now, and that this epoch is its own."""
        if self._named.get(name) != bucket_id:
            self.forget(bucket_id)
            self._named[name] = bucket_id
        if epoch not in self._epochs:
            self._epochs[epoch] = bucket_id
            drop_oldest(self._epochs, REMEMBERED)

    def forget(self, bucket_id: str) -> None:
        """Forgets the names of a bucket that is gone."""
        self._named = {each: other for each, other in self._named.items() if other != bucket_id}

    def keep(self, bucket_ids: Collection[str]) -> None:
        """Forgets the names of all other buckets."""
        self._named = {each: other for each, other in self._named.items() if other in bucket_ids}

    def find(self, name: str, position: str = "") -> str:
        """The id of the bucket with this name and position, "" if it is unknown."""
        bucket_id = self._by_epoch(position) or self._named.get(name, "")
        place = parse_position(position)
        if bucket_id and place is not None:
            self.learn(name, bucket_id, place.epoch)
        return bucket_id

    def moved(self, positions: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """The buckets' ids and positions in a ping, which has names. A renamed bucket appears under its new name;
        buckets known by their epoch come first, so that old names no longer count."""
        for name, position in sorted(positions.items(), key=lambda each: not self._by_epoch(each[1])):
            yield self.find(name, position), position

    def _by_epoch(self, position: str) -> str:
        place = parse_position(position)
        return "" if place is None else self._epochs.get(place.epoch, "")
