"""The client's checkpoint: its file, and the saver."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relay_tornado.client import FileCheckpoint
from relay_tornado.client.checkpoint import MAX_SIZE, Saver
from relay_tornado.client.errors import CheckpointError
from tests.client.world import client_test
from tests.waiting import until


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """It is its owner's alone, follows a link to where it points, and leaves no draft behind."""
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real / "checkpoint")
    checkpoint = FileCheckpoint(link)
    assert checkpoint.load_now() is None
    (real / ".checkpoint.new").write_text("left over")
    for text in ("one", "two"):
        checkpoint.save_now(text)
        assert checkpoint.load_now() == text
    assert link.is_symlink()
    assert [each.name for each in real.iterdir()] == ["checkpoint"]
    assert (real / "checkpoint").stat().st_mode & 0o777 == 0o600


def test_a_draft_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """Whoever puts a link where the draft goes does not get a file written elsewhere."""
    (tmp_path / "other").write_text("untouched")
    (tmp_path / ".checkpoint.new").symlink_to(tmp_path / "other")
    FileCheckpoint(tmp_path / "checkpoint").save_now("text")
    assert (tmp_path / "other").read_text() == "untouched"


def test_what_is_no_file_of_a_checkpoint_is_not_read(tmp_path: Path) -> None:
    """Neither a device, which may never end, nor a pipe, nor a file that is far too large."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", MAX_SIZE + 1)
    for path, words in (("/dev/null", "no regular"), (tmp_path / "pipe", "no regular"), (tmp_path / "large", "large")):
        with pytest.raises(ValueError, match=words):
            FileCheckpoint(path).load_now()


WRITER = """
import sys
from relay_tornado.client import FileCheckpoint
checkpoint = FileCheckpoint(sys.argv[1])
print("begun", flush=True)
number = 0
while True:
    number += 1
    checkpoint.save_now(f"{number} " * 2000)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    """Whenever it is killed, the file holds one text, from its beginning to its end."""
    path = tmp_path / "checkpoint"
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline()
            while not path.exists():
                pass
            os.kill(writer.pid, signal.SIGKILL)
        words = path.read_text().split()
        assert len(words) == 2000
        assert len(set(words)) == 1


class Slow:
    """A checkpoint whose saves end when they are told to."""

    def __init__(self) -> None:
        self.saved: list[str] = []
        self.go = asyncio.Event()

    def load(self) -> str | None:
        return None

    async def save(self, text: str) -> None:
        await self.go.wait()
        if text == "bad":
            raise OSError("no")
        self.saved.append(text)


@client_test
async def test_saves_gather() -> None:
    """While one save runs, all changes wait for the next one; a cancelled wait breaks none off."""
    slow, text = Slow(), "0"
    saver = Saver(slow, lambda: text, 0)
    await saver.flush()
    flushes = []
    for number in range(1, 6):
        text = str(number)
        saver.moved()
        flushes.append(asyncio.create_task(saver.flush()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    flushes[0].cancel()
    await asyncio.sleep(0)
    assert slow.saved == []
    slow.go.set()
    await asyncio.gather(*flushes, return_exceptions=True)
    assert slow.saved == ["1", "5"]
    text = "bad"
    saver.moved()
    with pytest.raises(CheckpointError, match="no"):
        await saver.flush()
    text = "good"
    await saver.close()
    assert slow.saved == ["1", "5", "good"]


@client_test
async def test_saves_can_be_put_off() -> None:
    """With an interval nobody waits for a save; the last state is saved at the end all the same, or it is told."""
    slow, text = Slow(), "1"
    slow.go.set()
    saver = Saver(slow, lambda: text, 3600)
    saver.moved()
    await saver.flush()
    text = "2"
    saver.moved()
    await saver.flush()
    for _ in range(10):
        await asyncio.sleep(0)
    assert slow.saved == []
    await saver.close()
    assert slow.saved == ["2"]
    text = "bad"
    saver = Saver(slow, lambda: text, 3600)
    saver.moved()
    await saver.flush()
    with pytest.raises(CheckpointError, match="no"):
        await saver.close()


@client_test
async def test_what_changes_during_a_save_that_was_put_off_is_saved_after_it() -> None:
    """Nobody waits for it, and nobody asks again."""
    slow, asked, text = Slow(), [], "1"

    def current() -> str:
        asked.append(text)
        return text

    saver = Saver(slow, current, 0.001)
    saver.moved()
    await saver.flush()
    task = saver._task
    assert task is not None
    await until(lambda: asked, "the first save")
    text = "2"
    saver.moved()
    await saver.flush()
    slow.go.set()
    await until(lambda: slow.saved == ["1", "2"], "both saves")
    assert saver._task is task


@client_test
@pytest.mark.parametrize("every", [0.0, 0.01])
async def test_a_save_that_fails_after_nobody_asks_for_it(every: float, caplog: pytest.LogCaptureFixture) -> None:
    """As that of a subscription that was dropped: it is no error of a task that nobody heard of."""
    caplog.set_level(logging.ERROR, "asyncio")
    slow = Slow()
    saver = Saver(slow, lambda: "bad", every)
    saver.moved()
    asking = asyncio.create_task(saver.flush())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait((asking,))
    saving = len(asyncio.all_tasks())
    del saver, asking
    slow.go.set()
    await until(lambda: len(asyncio.all_tasks()) < saving, "the end of the save")
    gc.collect()
    assert not caplog.records


class Failing:
    """Cannot save for some times."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.saved: list[str] = []

    def load(self) -> str | None:
        return None

    def save(self, text: str) -> None:
        if self.left:
            self.left -= 1
            raise OSError("no space left")
        self.saved.append(text)


@client_test
async def test_a_place_that_could_not_be_saved_before_is_saved_at_the_end() -> None:
    """The end tries it itself, whatever became of a save that nobody waited for; and tells if that fails."""
    checkpoint = Failing(1)
    saver = Saver(checkpoint, lambda: "1", 0.001)
    saver.moved()
    await saver.flush()
    task = saver._task
    assert task is not None
    await asyncio.wait((task,))
    await saver.close()
    assert checkpoint.saved == ["1"]
    checkpoint.left = 1
    saver.moved()
    with pytest.raises(CheckpointError):
        await saver.close()
    await saver.close()
    assert checkpoint.saved == ["1", "1"]
