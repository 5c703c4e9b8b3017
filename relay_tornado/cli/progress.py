"""Shows the progress of a long command: a bar on a terminal; if stderr is none, a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from relay_tornado.cli.printing import note

if TYPE_CHECKING:
    from relay_tornado.ops.copying import Progress

LINES = 10.0
"""Seconds between two lines."""


@contextmanager
def show_progress(as_json: bool) -> Iterator[Progress]:
    """Yields the function to call with what is being done, how much is done, and how much there is (0: unknown)."""
    if sys.stderr.isatty():
        with _bar() as progress:
            yield progress
    elif as_json:
        yield lambda *_: None
    else:
        yield _Lines()


class _Lines:
    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told >= LINES:
            self._told = now
            note(f"{what}: {done * 100 // total} %" if total else what)


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    # Without markup: the description may quote what a target answered.
    words = TextColumn("{task.description}", markup=False)
    columns = (words, BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total or None)

        yield progress
