"""A set of whole numbers, kept as ascending ranges: small where they lie close together, as seqs do."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """Iterating gives (first, last), both in it, in order, with a hole between any two. `len` counts the numbers."""

    __slots__ = ("_count", "_firsts", "_lasts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """The ranges may come in any order, and overlap."""
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in sorted(ranges):
            if first > last:
                continue
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)
        self._count = sum(last - first + 1 for first, last in self)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts, self._lasts, strict=True)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def add(self, number: int) -> None:
        """Adds a number; one that is in it changes nothing."""
        firsts, lasts = self._firsts, self._lasts
        at = bisect_right(firsts, number)
        if at and number <= lasts[at - 1]:
            return
        self._count += 1
        joins_left = at > 0 and lasts[at - 1] == number - 1
        joins_right = at < len(firsts) and firsts[at] == number + 1
        if joins_left and joins_right:
            lasts[at - 1] = lasts.pop(at)
            del firsts[at]
        elif joins_left:
            lasts[at - 1] = number
        elif joins_right:
            firsts[at] = number
        else:
            firsts.insert(at, number)
            lasts.insert(at, number)

    def remove(self, number: int) -> None:
        """Takes a number out; one that is not in it changes nothing."""
        firsts, lasts = self._firsts, self._lasts
        at = bisect_right(firsts, number) - 1
        if at < 0 or number > lasts[at]:
            return
        self._count -= 1
        first, last = firsts[at], lasts[at]
        if first == last:
            del firsts[at], lasts[at]
        elif number == first:
            firsts[at] += 1
        elif number == last:
            lasts[at] -= 1
        else:
            firsts.insert(at + 1, number + 1)
            lasts.insert(at, number - 1)

    def end(self, number: int) -> int:
        """The last number of the range that `number` lies in, `number - 1` where it lies in none."""
        at = bisect_right(self._firsts, number) - 1
        return self._lasts[at] if at >= 0 and number <= self._lasts[at] else number - 1

    def cut_below(self, first: int) -> None:
        """Takes out what lies below `first`."""
        gone = bisect_left(self._lasts, first)
        self._count -= sum(b - a + 1 for a, b in zip(self._firsts[:gone], self._lasts[:gone], strict=True))
        del self._firsts[:gone], self._lasts[:gone]
        if self._firsts and self._firsts[0] < first:
            self._count -= first - self._firsts[0]
            self._firsts[0] = first

    def cut_above(self, last: int) -> None:
        """Takes out what lies above `last`."""
        kept = bisect_right(self._firsts, last)
        self._count -= sum(b - a + 1 for a, b in zip(self._firsts[kept:], self._lasts[kept:], strict=True))
        del self._firsts[kept:], self._lasts[kept:]
        if self._lasts and self._lasts[-1] > last:
            self._count -= self._lasts[-1] - last
            self._lasts[-1] = last

    def clear(self) -> None:
        """Takes out everything."""
        self._firsts.clear()
        self._lasts.clear()
        self._count = 0
