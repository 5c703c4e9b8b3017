"""relay_tornado/storage/checkpoints.py: how much of the WAL there is before it is copied into the file."""

from pathlib import Path

import pytest

from relay_tornado.rate_limits import SAY_EVERY
from relay_tornado.storage.checkpoints import Checkpoints
from relay_tornado.storage.space import Space


class _Disk(Space):
    """One whose space is low where a test says so."""

    is_low = False

    def low(self, coming: int = 0, waiting: int = 0) -> bool:
        return self.is_low


@pytest.fixture
def disk(tmp_path: Path) -> _Disk:
    return _Disk(tmp_path / "relay.db", 0)


@pytest.mark.parametrize(
    ("pages", "committed", "waiting", "due"),
    [
        (249, 16, 0, False),
        (250, 16, 8, True),
        (250, 15, 8, False),
        (250, 16, 9, False),
        (500, 1, 8, True),
        (500, 1, 9, False),
        (1000, 1, 900, True),
    ],
)
def test_behind_a_commit(disk: _Disk, pages: int, committed: int, waiting: int, due: bool) -> None:
    """A commit of many events has it made sooner than one of a few, and who waits has it made later."""
    checkpoints = Checkpoints(disk)
    checkpoints.pages = pages
    assert checkpoints.due_behind(committed, waiting) is due
    assert checkpoints.due is (pages >= 250)


def test_while_space_is_low(disk: _Disk) -> None:
    """It is made early, but not for what a reader holds back alone."""
    disk.is_low = True
    checkpoints = Checkpoints(disk)
    checkpoints.pages = 100
    assert checkpoints.due_behind(1, 0)
    checkpoints.copied(80)
    checkpoints.pages += 99
    assert not checkpoints.due_behind(1, 0)
    checkpoints.pages += 1
    assert checkpoints.due_behind(1, 0)


def test_they_become_rare_while_a_reader_holds_the_rest_back(disk: _Disk) -> None:
    """The next one comes after as much more as half of what is left; after one that failed, soon."""
    checkpoints = Checkpoints(disk)
    checkpoints.copied(800)
    checkpoints.pages += 399
    assert not checkpoints.due
    checkpoints.pages += 1
    assert checkpoints.due
    checkpoints.failed("a full disk")
    checkpoints.pages += 249
    assert not checkpoints.due
    checkpoints.pages += 1
    assert checkpoints.due


def test_they_do_not_become_too_rare(disk: _Disk) -> None:
    """Once the reader is gone, a long WAL is copied after 4000 more pages, however long it is and whoever waits."""
    checkpoints = Checkpoints(disk)
    checkpoints.copied(180_000)
    checkpoints.committed(3_999)
    assert not checkpoints.due
    assert not checkpoints.due_behind(16, 0)
    checkpoints.committed(1)
    assert checkpoints.due
    assert checkpoints.due_behind(1, 900)


def test_a_page_that_many_commits_change_is_counted_once(disk: _Disk) -> None:
    """It is copied once. But the WAL, which has it once for each commit, does not get long."""
    checkpoints = Checkpoints(disk)
    commits = 0
    while not checkpoints.due_behind(16, 9):
        checkpoints.committed(74, range(64))
        commits += 1
        assert checkpoints.pages == 64 + 10 * commits
    assert 64 * (commits - 2) < 750 <= 64 * (commits - 1)
    assert checkpoints.due
    checkpoints.copied(0)
    assert not checkpoints.due
    checkpoints.committed(74, range(64))
    assert checkpoints.pages == 74


def test_one_that_fails_leaves_its_repeats_to_the_next(disk: _Disk) -> None:
    """The WAL stays as long as it is: what it has more than once counts as pages from then on, and not twice."""
    checkpoints = Checkpoints(disk)
    for _ in range(11):
        checkpoints.committed(75, range(75))
    assert checkpoints.due
    for _ in range(2):
        checkpoints.failed("a full disk")
        assert checkpoints.pages == 11 * 75
        assert not checkpoints.due
        assert not checkpoints.due_behind(16, 0)


def test_the_next_one_is_due_as_late_as_the_first(disk: _Disk) -> None:
    """Where all was copied."""
    checkpoints = Checkpoints(disk)
    for _ in range(2):
        checkpoints.committed(249)
        assert not checkpoints.due
        checkpoints.committed(1)
        assert checkpoints.due
        checkpoints.copied(0)


def test_while_space_is_low_repeats_count(disk: _Disk) -> None:
    """A short WAL is what matters then."""
    disk.is_low = True
    checkpoints = Checkpoints(disk)
    checkpoints.committed(60, range(50))
    assert not checkpoints.due_behind(1, 0)
    checkpoints.committed(60, range(50))
    assert checkpoints.pages == 70
    assert checkpoints.due_behind(1, 0)


def test_while_a_reader_holds_the_rest_back_each_change_counts(disk: _Disk) -> None:
    """The WAL gets as long as all changes together until the next try."""
    checkpoints = Checkpoints(disk)
    checkpoints.copied(800)
    for _ in range(3):
        checkpoints.committed(10, (1, 2))
    assert checkpoints.pages == 830
    checkpoints.copied(0)
    for _ in range(3):
        checkpoints.committed(10, (1, 2))
    assert checkpoints.pages == 26


def test_an_error_is_logged_once_in_a_while(disk: _Disk) -> None:
    """The same one is news again after a minute, another one at once."""
    now = 1_000.0
    checkpoints = Checkpoints(disk, lambda: now)
    assert [checkpoints.failed("full") for _ in range(3)] == [True, False, False]
    now += SAY_EVERY - 1
    assert not checkpoints.failed("full")
    assert [checkpoints.failed("written over") for _ in range(2)] == [True, False]
    now += SAY_EVERY
    assert checkpoints.failed("written over")


def test_an_error_ends_with_the_next_one_that_is_made(disk: _Disk) -> None:
    """Also if a reader held it back, which is no error."""
    checkpoints = Checkpoints(disk)
    assert checkpoints.failure == ""
    checkpoints.failed("disk I/O error")
    assert checkpoints.failure == "disk I/O error"
    checkpoints.copied(300)
    assert checkpoints.failure == ""
