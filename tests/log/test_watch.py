"""relay_tornado/log/watch.py: whoever watches hears of it, whatever the others do."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from relay_tornado.log.watch import Watches
from tests.failing import once
from tests.log.worlds import SqliteWorld, event, make
from tests.waiting import until


def test_one_that_fails_keeps_nobody_from_hearing() -> None:
    """Where there was no memory for one, all are to be called again; any other error is logged."""
    watches = Watches(lambda bucket_id: 0)
    heard: list[int] = []

    def broken(bucket_id: str) -> None:
        raise ZeroDivisionError

    watches.add(["a"], lambda bucket_id: heard.append(1))
    watches.add(["a"], broken)
    watches.add(["a"], once(lambda bucket_id: heard.append(2)))
    watches.add(None, lambda bucket_id: heard.append(3))
    with capture_logs() as logs:
        with pytest.raises(MemoryError):
            watches.wake("a")
        assert sorted(heard) == [1, 3]
        watches.wake("a")
    assert sorted(heard) == [1, 1, 2, 3, 3]
    assert [each["event"] for each in logs] == ["wake_failed"] * 2


def test_one_that_is_closed_is_forgotten() -> None:
    """It may be closed twice, also while it is called; the others of its buckets stay."""
    watches = Watches(lambda bucket_id: 0)
    heard: list[str] = []
    one = watches.add(["a", "b"], lambda bucket_id: heard.append("one"))
    other = watches.add(["a"], lambda bucket_id: heard.append("other"))
    of_all = watches.add(None, lambda bucket_id: (heard.append("all"), of_all.close()))
    for _ in range(2):
        one.close()
        watches.wake("a")
        watches.wake("b")
    assert heard == ["other", "all", "other"]
    other.close()
    assert (watches._all, watches._of) == (set(), {})


@pytest.mark.gen_test
async def test_all_are_called_again(disk: SqliteWorld) -> None:
    """Until it went well: also those of the other logs in the same commit, and whoever sent has an answer."""
    heard: list[str] = []
    for bucket_id in ("a", "b"):
        await make(disk.log, bucket_id)
        disk.log.watch([bucket_id], once(once(heard.append), after=1))
    appended = [disk.log.append(bucket_id, event(b"x")) for bucket_id in ("a", "b")]
    with capture_logs():
        for each in appended:
            assert (await each).seq == 1
        await until(lambda: {"a", "b"} <= set(heard))
