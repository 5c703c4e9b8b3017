"""A relay that does not wait for the disk (`synchronous=NORMAL`): the control of what tests a loss of power.

`python -m tests.faults.weak serve …` is `relay serve …`, weakened.
"""

import sqlite3

from relay_tornado.cli import main
from relay_tornado.storage import connection

_prepare = connection._prepare_writer


def _weaken(raw: sqlite3.Connection) -> None:
    _prepare(raw)
    raw.execute("PRAGMA synchronous = NORMAL")


if __name__ == "__main__":
    connection._prepare_writer = _weaken
    main()
