"""Maintenance of the file in quiet times: notices that it was written over, returns free pages to the disk, and
forecasts when the space ends.

If the disk is so full that senders are refused, free pages are returned at once."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import Final

import structlog

from relay_tornado.model import DAY, MIB
from relay_tornado.storage.database import Database
from relay_tornado.storage.forecast import WARN, Forecast
from relay_tornado.storage.space import free_pages

INTERVAL: Final = 60.0
STEP: Final = 128
"""Pages that one transaction returns: half a mebibyte, a few milliseconds."""

MUCH: Final = 64 * MIB
SHARE: Final = 4
"""Free pages are returned only if they are at least so many bytes (`MUCH`) and a `SHARE`th of the file. What is kept
serves new events without the file growing again."""

QUIET: Final = 10.0
"""Commits a second up to which the relay counts as idle."""

_PAUSE: Final = 0.05
_SPAN: Final = 1.0
"""Seconds over which it is judged whether the relay is busy: a single commit beside a step proves nothing."""
_URGENT: Final = 1.0
"""Seconds between two looks while senders are refused for lack of space."""
_HELD: Final = 5
"""Looks in a row at which a reader holds the WAL back before it is logged: the relay's own readers end sooner."""

_WARN_EVERY: Final = DAY

_log = structlog.get_logger(__name__)


class Maintenance:
    """Maintains one database until its `run` is cancelled. `forecast` is that of its disk."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.monotonic,
        *,
        interval: float = INTERVAL,
        much: int = MUCH,
    ) -> None:
        self.forecast = Forecast()
        self._database = database
        self._clock = clock
        self._interval = interval
        self._much = much
        self._warned = float("-inf")
        self._problem = ""
        self._held = 0

    async def run(self) -> None:
        """Looks at the file once every interval. If a look fails, that is logged, and the next one comes."""
        commits, before = self._database.commits, self._clock()
        while True:
            try:
                await self._database.look()
                free, size = await self._database.read(free_pages)
                self._foretell(free)
                now = self._clock()
                rate = (self._database.commits - commits) / (now - before) if now > before else 0.0
                if self._database.space.low():
                    await self._make_room()
                elif self._database.checkpoint_failure:  # there may be room now; the next checkpoint may be far away
                    await self._emptied()
                elif rate <= QUIET and self._is_much(free, size):
                    await self._vacuum(free, size)
                self._problem = ""
            except Exception as error:  # for lack of memory, for example
                problem = str(error) or repr(error)
                if problem != self._problem:  # on a full disk it would be logged each second
                    self._problem = problem
                    _log.warning("upkeep_waits", reason=problem)
            commits, before = self._database.commits, self._clock()
            await self._pause()

    async def _pause(self) -> None:
        """Waits for the next look, which comes early if space runs low."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._interval
        while (left := end - loop.time()) > 0:
            await asyncio.sleep(min(left, _URGENT))
            if self._database.space.low():
                break

    async def _make_room(self) -> None:
        """While senders are refused: returns the WAL and every free page to the disk until there is room again. If a
        reader holds the WAL back, returning pages would only make it longer."""
        given = 0
        free, _ = await self._database.read(free_pages)
        while await self._emptied() and free and self._database.space.low():
            await self._database.write(give_back)
            left, _ = await self._database.read(free_pages)
            if left >= free:  # as in a file that was created without auto_vacuum
                break
            given += free - left
            free = left
        if given:
            _log.info("space_given_back", bytes=given, urgent=True)

    async def _emptied(self) -> bool:
        """Whether the WAL is empty. If a reader prevents that for some time, it is logged; an error, as of a full disk,
        is logged by the writer."""
        if await self._database.shrink():
            self._held = 0
            return True
        if self._database.checkpoint_failure:
            self._held = 0
            return False
        self._held += 1
        if self._held == _HELD:
            _log.warning(
                "wal_held_back",
                bytes=self._database.space.wal,
                hint="another program, such as an open sqlite3, is reading relay.db: end it to free this space",
            )
        return False

    def _is_much(self, free: int, size: int) -> bool:
        return free >= self._much and free * SHARE >= size

    async def _vacuum(self, free: int, size: int) -> None:
        """Returns pages, a step at a time, until half of what would be much is left or the relay is busy."""
        began, since, others = size, self._clock(), 0
        while 2 * free > self._much:
            commits = self._database.commits
            await self._database.write(give_back)
            await asyncio.sleep(_PAUSE)
            left, size = await self._database.read(free_pages)
            now = self._clock()
            others += self._database.commits - commits - 1  # without this step's own
            if left >= free or others > QUIET * max(now - since, _SPAN):
                break
            free = left
            if now - since >= _SPAN:
                since, others = now, 0
        _log.info("space_given_back", bytes=began - size, left_free=free)

    def _foretell(self, free: int) -> None:
        now = self._clock()
        self.forecast.add(now, self._database.space.room + free)
        left = self.forecast.seconds_left
        if left is not None and left < WARN and now - self._warned >= _WARN_EVERY:
            self._warned = now
            _log.warning(
                "space_ends_soon",
                days=round(left / DAY, 1),
                bytes_a_day=round((self.forecast.rate or 0.0) * DAY),
                remedy="make the disk larger, or let old events leave earlier: relay bucket set NAME --retention-age",
            )


def give_back(raw: sqlite3.Connection) -> None:
    """Returns `STEP` pages, within a transaction."""
    # The pragma frees a page each time it is stepped, and the sqlite3 module steps it once, whatever number it is
    # given.
    for _ in range(STEP):
        raw.execute("PRAGMA incremental_vacuum(1)")
