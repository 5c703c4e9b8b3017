"""Where a subscriber's place is kept between two runs: a small file, or any object with two methods."""

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
"""Bytes that are read of a file: many times what the places in as many buckets as a relay has come to."""


class Checkpoint(Protocol):
    """Keeps one text (JSON, a few hundred bytes a bucket). Either method may be a coroutine; one that is none is called
    in the loop's thread and should be quick. What they raise comes out as CheckpointError. One subscriber at a time."""

    def load(self) -> str | Awaitable[str | None] | None:
        """What was saved last, None for nothing."""

    def save(self, text: str) -> Awaitable[None] | None:
        """Replaces what was saved. Once it returns, `load` gives it, whatever happens to this process."""


class FileCheckpoint:
    """A file, replaced whole: it holds what was saved last or, after a power cut, what was saved before. Mode 0600."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.realpath(path))

    async def load(self) -> str | None:
        return await asyncio.to_thread(self.load_now)

    async def save(self, text: str) -> None:
        await asyncio.to_thread(self.save_now, text)

    def load_now(self) -> str | None:
        """Raises OSError, and ValueError where it is no text, or can't be a checkpoint by its kind or its size."""
        try:
            # A pipe would wait for whoever writes to it.
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
        """Raises OSError."""
        draft = self.path.with_name(f".{self.path.name}.new")
        # Made anew, so that neither a link nor the rights of what lay there are followed.
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # The directory is not synced: after a power cut either of the two is there, and whole.
        draft.replace(self.path)


class Saver:
    """Saves a text that changes. While one save runs, changes gather, and the next takes them all."""

    def __init__(self, checkpoint: Checkpoint, text: Callable[[], str], every: float) -> None:
        self._checkpoint = checkpoint
        self._text = text
        self._every = every
        self._wanted = 0
        self._saved = 0
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def moved(self) -> None:
        """The text has changed."""
        self._wanted += 1

    async def flush(self) -> None:
        """Returns once what has changed is saved; at once where saves are at most one in `every` seconds (> 0).

        Raises CheckpointError; the next call tries again. A cancelled call does not break off the save.
        """
        target = self._wanted
        while self._saved < target:
            if self._task is not None and self._task.done():
                task, self._task = self._task, None
                task.result()
                continue
            if self._task is None:
                self._task = asyncio.create_task(self._save())
            if self._every and not self._closing.is_set():
                return
            await asyncio.wait((self._task,))

    async def close(self) -> None:
        """Saves what has changed. Raises CheckpointError."""
        self._closing.set()
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
            await save(self._checkpoint, text)
            self._saved = max(self._saved, wanted)
            # Nobody waits for a save that is put off, so nobody asks again for what changed during this one.
            if not self._every or self._saved == self._wanted:
                return


async def load(checkpoint: Checkpoint) -> str | None:
    """What was saved last. Raises CheckpointError."""
    try:
        answer = checkpoint.load()
        return await answer if inspect.isawaitable(answer) else answer
    except Exception as error:
        raise CheckpointError(f"the checkpoint can't be read: {error}") from error


async def save(checkpoint: Checkpoint, text: str) -> None:
    """Raises CheckpointError."""
    try:
        answer = checkpoint.save(text)
        if inspect.isawaitable(answer):
            await answer
    except Exception as error:
        raise CheckpointError(f"the checkpoint can't be written: {error}") from error
