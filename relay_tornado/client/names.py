"""Which bucket the relay means where it says a name: a bucket may be renamed, and another one get its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from relay_tornado.client.messages import parse_place
from relay_tornado.client.positions import REMEMBERED, drop_oldest


class Names:
    """Goes by the epochs in ids, each of which is one bucket's for good, and by names where it knows no better."""

    def __init__(self) -> None:
        self._named: dict[str, str] = {}
        self._epochs: dict[str, str] = {}

    def learn(self, name: str, bucket_id: str, epoch: str) -> None:
        """The bucket has this name now, and this epoch is one of its own."""
        if self._named.get(name) != bucket_id:
            self._named = {each: other for each, other in self._named.items() if other != bucket_id}
            self._named[name] = bucket_id
        if epoch not in self._epochs:
            self._epochs[epoch] = bucket_id
            drop_oldest(self._epochs, REMEMBERED)

    def find(self, name: str, position: str = "") -> str:
        """The id of the bucket that is called so and has this position, "" where it was not heard of."""
        bucket_id = self._by_epoch(position) or self._named.get(name, "")
        place = parse_place(position)
        if bucket_id and place is not None:
            self.learn(name, bucket_id, place.epoch)
        return bucket_id

    def moved(self, positions: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """The ids of the buckets and the positions that a ping tells by name. A bucket that was renamed is among them
        under its new name; it comes first, so that its old name counts no more."""
        for name, position in sorted(positions.items(), key=lambda each: not self._by_epoch(each[1])):
            yield self.find(name, position), position

    def _by_epoch(self, position: str) -> str:
        place = parse_place(position)
        return "" if place is None else self._epochs.get(place.epoch, "")
