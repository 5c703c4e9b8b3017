"""A relay whose writer's thread is lost once it has committed the third event, as if there was no memory to tell it.

`python -m tests.faults.unthreaded serve …` is `relay serve …` of which this is so.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from aiosqlite import core

from relay_tornado.cli import entry
from relay_tornado.storage.transaction import Transactions

_commit = Transactions.commit


def _commit_and_fail(self: Transactions, raw: sqlite3.Connection, stamp: Any) -> Any:
    done = _commit(self, raw, stamp)
    if stamp.appended == 3:
        del core.set_result, core.set_exception  # type: ignore[attr-defined]
    return done


if __name__ == "__main__":
    Transactions.commit = _commit_and_fail  # type: ignore[method-assign]
    entry.main()
