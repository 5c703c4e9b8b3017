"""Stores a subscriber's place between two runs: in a small file, or any object with two methods."""

from __future__ import annotations

import asyncio
import inspect
import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from relay_tornado.client.errors import CheckpointError

MAX_SIZE: Final = 64 << 20
"""Maximum bytes read of a file: far more than the places in all buckets that a relay may have."""


class Checkpoint(Protocol):
    """Stores one text (JSON, a few hundred bytes per bucket) for one subscriber at a time. Either method may be a
    coroutine; one that is not is called in the loop's thread and should be quick. Their exceptions are raised as
    CheckpointError."""

    def load(self) -> str | Awaitable[str | None] | None:
        """The text saved last; None if there is none."""

    def save(self, text: str) -> Awaitable[None] | None:
        """Replaces the saved text. Once it returns, `load` returns this text, whatever happens to this process."""


class FileCheckpoint:
    """A file with mode 0600 that is replaced as a whole. It holds the last text or, after a power cut, perhaps the
    previous one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.realpath(path))

    async def load(self) -> str | None:
        return await asyncio.to_thread(self.load_now)

    async def save(self, text: str) -> None:
        await asyncio.to_thread(self.save_now, text)

    def load_now(self) -> str | None:
        """Returns the text; None without a file. Raises OSError, and ValueError if it is not text, or by its type or
        size not a checkpoint."""
        try:
            # Without O_NONBLOCK, opening a pipe would wait for a writer.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ValueError(f"{self.path} is no regular file: name another one")
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(MAX_SIZE + 1)
        if len(content) > MAX_SIZE:
            raise ValueError(f"{self.path} is too large for a checkpoint: name another file")
        return content.decode()

    def save_now(self, text: str) -> None:
        """Replaces the file. Raises OSError."""
        draft = self.path.with_name(f".{self.path.name}.new")
        # A new file, so that neither a link nor the permissions of an old one are followed.
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # The directory is not synced: after a power cut it names either of the two files, each complete.
        draft.replace(self.path)


class Saver:
    """Loads a text, and saves it as it changes. Changes made during one save are saved together by the next."""

    def __init__(self, checkpoint: Checkpoint, text: Callable[[], str], every: float) -> None:
        self._checkpoint = checkpoint
        self._text = text
        self._every = every
        self._wanted = 0
        self._saved = 0
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def load(self) -> str | None:
        """The text saved last, or None. Raises CheckpointError."""
        try:
            answer = self._checkpoint.load()
            return await answer if inspect.isawaitable(answer) else answer
        except Exception as error:
            raise CheckpointError(f"the checkpoint can't be read: {error}") from error

    def moved(self) -> None:
        """Notes that the text has changed."""
        self._wanted += 1

    async def flush(self) -> None:
        """Returns once all changes are saved. If `every` > 0, at most one save is made in so many seconds, and this
        returns at once.

        Raises CheckpointError; the next call tries again. Cancelling a call does not interrupt the save.
        """
        target = self._wanted
        while self._saved < target:
            if self._task is not None and self._task.done():
                task, self._task = self._task, None
                task.result()
                continue
            if self._task is None:
                self._task = asyncio.create_task(self._save())
                self._task.add_done_callback(_noted)
            if self._every and not self._closing.is_set():
                return
            await asyncio.wait((self._task,))

    async def close(self) -> None:
        """Saves what has changed. Raises CheckpointError."""
        self._closing.set()
        if self._task is not None and self._task.done():
            self._task = None  # what it could not save is saved anew
        await self.flush()
        if self._task is not None:
            await asyncio.wait((self._task,))
            self._task = None

    async def _save(self) -> None:
        while True:
            if self._every:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), self._every)
            wanted, text = self._wanted, self._text()
            await self._store(text)
            self._saved = max(self._saved, wanted)
            # Nobody waits for a delayed save, so changes made during this one would not be saved unless it continues.
            if not self._every or self._saved == self._wanted:
                return

    async def _store(self, text: str) -> None:
        try:
            answer = self._checkpoint.save(text)
            if inspect.isawaitable(answer):
                await answer
        except Exception as error:
            raise CheckpointError(f"the checkpoint can't be written: {error}") from error


def _noted(save: asyncio.Task[None]) -> None:
    """Keeps asyncio from reporting the save's error with a traceback: if the subscription was dropped, nobody asks for
    it."""
    if not save.cancelled():
        save.exception()
