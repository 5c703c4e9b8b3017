"""Each fault of docs/reliability.md in its small form; `./scripts/prove` runs the long ones, and looks at times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults import (
    bitflips,
    canaries,
    descriptors,
    drains,
    failing_writes,
    frames,
    full_disks,
    fuzzing,
    kills,
    memory,
    overwritten,
    overwritten_wal,
    power,
    replays,
    silences,
    slow,
    stuck,
)
from tests.faults.disk import needs_disk
from tests.faults.outcome import Outcome
from tests.needs import needs_failing_allocations


def figures(outcome: Outcome) -> dict[str, Any]:
    """The figures of what broke no promise."""
    assert outcome.broken == []
    return outcome.figures


@pytest.mark.heavy
def test_kill_9(tmp_path: Path) -> None:
    """kill -9 under 20 senders: nothing acknowledged is lost or doubled, each id still names the same event, and a
    cursor from before each kill is honoured after it and after every later one."""
    found = figures(kills.run(tmp_path, 3))
    assert (found["kills"], found["epochs"], found["lost"], found["false alarms"]) == (3, 3, 0, 0)
    assert found["acknowledged"] > 100


@pytest.mark.heavy
def test_loss_of_power(tmp_path: Path) -> None:
    """What is not synced when the power goes is gone, and nothing acknowledged is among it; with synchronous=NORMAL
    there is, which proves the test."""
    needs_disk()
    found = figures(power.run(tmp_path, 1))
    assert found["lost"] == 0 < found["lost by synchronous=NORMAL"]


@pytest.mark.heavy
def test_failing_writes(tmp_path: Path) -> None:
    """EIO and ENOSPC in place of writes and syncs: no 2xx for what is not stored, and events are taken again."""
    failing_writes.needs_strace()
    # The first call, one that may be of any thread, and one of which only the thread that commits makes so many.
    found = figures(failing_writes.run(tmp_path, 450, 225))
    assert found["faults"] == found["came"] == 6
    assert found["acknowledged and lost"] == 0 < found["acknowledged"]


@pytest.mark.heavy
def test_flipped_bits(tmp_path: Path) -> None:
    """relay check finds every flip in a payload, the witness tells every loss by one in the WAL, and what is given out
    is what was stored, under the id that it had."""
    found = figures(bitflips.run(tmp_path, 12, 4))
    assert found["found by relay check"] == found["flips in payloads"] == 6
    assert found["told by the witness"] == found["losses"] == 4


@pytest.mark.heavy
def test_a_file_that_is_written_over(tmp_path: Path) -> None:
    """From the next checkpoint on nobody is told 200, and nothing is copied into what lies there; the next start is
    refused, and a backup has all that it had."""
    found = figures(overwritten.run(tmp_path, len(overwritten.KINDS)))
    assert found["times written over"] == found["starts refused"] == found["restored"] == 5
    assert found["lost"] == 0 < found["acknowledged"]


@pytest.mark.heavy
def test_a_wal_that_is_written_over(tmp_path: Path) -> None:
    """Beside a relay or between two runs, also after checkpoints that a reader held back: each loss is told, no id
    names two events, and the file stays whole."""
    found = figures(overwritten_wal.run(tmp_path, len(overwritten_wal.KINDS)))
    assert (found["times"], found["lost untold"], found["ids used twice"], found["cursors misread"]) == (9, 0, 0, 0)
    assert found["told"] >= found["lost"] > 0


@pytest.mark.heavy
def test_replays(tmp_path: Path) -> None:
    """20 clients are cut at random while events come in, old ones leave and the relay is restarted: each gets the
    whole log in order, or is told exactly which events it lacks."""
    found = figures(replays.run(tmp_path, 70))
    assert found["cuts"] >= 70
    assert found["restarts"] >= 1
    assert found["events/s while it ran"] > 0
    assert found["longest replay"] > replays.LONG, "nobody had to read from SQLite"


@pytest.mark.heavy
def test_silent_connections(tmp_path: Path) -> None:
    """Connections die without a word to either end: both notice, whoever is first, and each client gets everything,
    once."""
    found = figures(silences.run(tmp_path, *silences.QUICK))
    assert found["received"] == found["events"] * silences.QUICK[0].clients > 0


@pytest.mark.heavy
def test_a_full_disk(tmp_path: Path) -> None:
    """On a full disk senders get 507, nothing that was acknowledged is lost, reads go on, and once space is free the
    same process takes events again."""
    needs_disk()
    found = figures(full_disks.run(tmp_path, 1))
    assert (found["times full"], found["healed by itself"], found["lost"]) == (4, 2, 0)


@pytest.mark.heavy
def test_stuck_consumers(tmp_path: Path) -> None:
    """Clients that never read cost the relay bounded memory, while a healthy client gets everything; then they are
    cut off."""
    assert figures(stuck.run(tmp_path, stuck.SMALL))["sockets that never read"] == 20


@pytest.mark.heavy
def test_slow_senders(tmp_path: Path) -> None:
    """Heads and bodies that come in drops, and connections that say nothing, are closed; others are served."""
    found = figures(slow.run(tmp_path, slow.SMALL))
    assert found["closed"] == found["slow connections"] == 30


def test_too_few_descriptors(tmp_path: Path) -> None:
    """With 256 descriptors and 300 connections the relay says so once a second at most, and recovers."""
    found = figures(descriptors.run(tmp_path, 300))
    assert found["held at once"] < 256


def test_drains(tmp_path: Path) -> None:
    """SIGTERM under load: sockets get 1001, a request that is half sent still gets its 200, the relay ends with 0, and
    everything acknowledged is there at the next start."""
    found = figures(drains.run(tmp_path, 2))
    assert (found["SIGTERMs"], found["lost"]) == (2, 0)


@pytest.mark.heavy
def test_secrets(tmp_path: Path) -> None:
    """No secret comes out in a log, an error, a metric, or what is said of a backup."""
    found = figures(canaries.run(tmp_path, 30))
    assert (found["hits"], found["token secrets in a backup"]) == (0, 0)
    assert found["errors among them"] > 40


@pytest.mark.heavy
def test_memory(tmp_path: Path) -> None:
    """Wherever one allocation of a relay's fails: what was acknowledged is kept, and all goes on."""
    needs_failing_allocations()
    assert figures(memory.run(tmp_path, 150))["allocations that failed"] > 20


def test_frames(tmp_path: Path) -> None:
    """WebSocket frames that the protocol does not allow close their connection, and only that."""
    found = figures(frames.run(tmp_path, 1))
    assert found["cases"] > 50


@pytest.mark.heavy
def test_made_up_messages(tmp_path: Path) -> None:
    """Whatever control message, id, cursor or rules: no exception but the one that is meant."""
    assert figures(fuzzing.run_functions(tmp_path, 60))["exceptions"] == 0


@pytest.mark.heavy
def test_made_up_requests(tmp_path: Path) -> None:
    """Whatever comes over the wire: no traceback, no 500, and what is accepted is stored."""
    assert figures(fuzzing.run_wire(tmp_path, 150))["tracebacks"] == 0
