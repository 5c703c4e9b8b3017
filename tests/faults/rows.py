"""The table of promises and faults: what each row does in short and at length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.faults import (
    autobahn,
    backups,
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

MINUTE = 60.0


def _nothing() -> None:
    """What a row needs that needs nothing."""


def _needs_wstest() -> None:
    if autobahn.wstest() is None:
        pytest.skip("wstest is missing: see tests/faults/autobahn.py for how to install it")


@dataclass(frozen=True)
class Row:
    """`run` gets a folder, and then `quick` or `long`. `needs` raises pytest's Skipped where the machine lacks it."""

    name: str
    promise: str
    run: Callable[..., Outcome]
    quick: tuple[Any, ...]
    long: tuple[Any, ...]
    needs: Callable[[], None] = _nothing


ROWS = (
    Row("kill", "acked is kept, through kill -9", kills.run, (5,), (200,)),
    Row("power", "acked is kept, through a loss of power", power.run, (2,), (30,), needs_disk),
    Row("power-xfs", "the same on xfs", power.run, (2, "xfs"), (30, "xfs"), partial(needs_disk, "xfs")),
    Row("power-btrfs", "the same on btrfs", power.run, (2, "btrfs"), (30, "btrfs"), partial(needs_disk, "btrfs")),
    Row("writes", "no 2xx on a failed write", failing_writes.run, (300, 60), (300,), failing_writes.needs_strace),
    Row("bits", "a loss is noticed", bitflips.run, (20, 10), (200, 50)),
    Row("over", "a file that is written over is noticed", overwritten.run, (5,), (40,)),
    Row("wal", "a WAL that is written over loses nothing untold", overwritten_wal.run, (9,), (90,)),
    Row("replay", "replay is exact, or a gap is told", replays.run, (100,), (500,)),
    Row("silence", "a silent connection is noticed", silences.run, silences.QUICK, silences.LONG),
    Row("disk", "a full disk heals", full_disks.run, (1,), (6,), needs_disk),
    Row("disk-xfs", "the same on xfs", full_disks.run, (1, "xfs"), (6, "xfs"), partial(needs_disk, "xfs")),
    Row("disk-btrfs", "the same on btrfs", full_disks.run, (1, "btrfs"), (1, "btrfs"), partial(needs_disk, "btrfs")),
    Row("memory", "memory that is short costs one request", memory.run, (150,), (3,), needs_failing_allocations),
    Row("stuck", "stuck consumers slow nobody", stuck.run, (stuck.SMALL,), (stuck.LONG,)),
    Row("slow", "slow senders are closed", slow.run, (slow.SMALL,), (slow.LONG,)),
    Row("slow-tornado", "the same on Tornado's transport", slow.run, (slow.SMALL,), (slow.LONG_TORNADO,)),
    Row("slowhttptest", "the same, by slowhttptest", slow.run_tool, (50, 40.0), (1_000, 40.0), slow.needs_tool),
    Row("descriptors", "too few descriptors are survived", descriptors.run, (300,), (1_000, 20)),
    Row("drain", "SIGTERM loses nothing", drains.run, (3,), (50,)),
    Row("backup", "a backup restores", backups.run, (2,), (20,)),
    Row("secrets", "no secret comes out", canaries.run, (30,), (2_000,)),
    Row("frames", "bad frames close their connection only", frames.run, (1,), (30,)),
    Row("autobahn", "WebSockets as good as Tornado's", autobahn.run, (("7.*",),), (("*",),), _needs_wstest),
    Row("functions", "no exception escapes", fuzzing.run_functions, (100,), (1_000, 10 * MINUTE)),
    Row("wire", "nothing on the wire breaks it", fuzzing.run_wire, (200,), (1_000, 10 * MINUTE)),
)
