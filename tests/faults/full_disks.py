"""A full disk: senders get 507, nothing that was acknowledged is lost, reads go on, and it heals without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from pathlib import Path

from relay_tornado.storage.space import disk_of
from tests.acceptance.clients import Sender, read_log
from tests.acceptance.relay import TIMEOUT, Relay, wait_for
from tests.faults.disk import MIB, Disk
from tests.faults.outcome import Outcome

ROOM = 16 * MIB
SIZES = {"ext4": ROOM, "xfs": 300 * MIB, "btrfs": 128 * MIB}
"""The smallest that their mkfs makes. What is more than the room is filled first."""
OPTIONS = {"ext4": ("-O", "^has_journal")}
RESERVES = {"with a reserve": 2 * MIB, "with none": 0}
BALLAST = {"ext4": 2 * MIB, "xfs": 2 * MIB, "btrfs": 4 * MIB}
"""What somebody else has on the disk, and removes: this much at a time."""
MOST = 1_000
REFILLS = 20


def run(folder: Path, cycles: int, kind: str = "ext4") -> Outcome:
    """Fills a disk with 16 MiB of room and frees some of it so many times, with a reserve and with none."""
    outcome = Outcome()
    acknowledged = refused = healed = lost = 0
    for name, reserve in RESERVES.items():
        place = folder / name.replace(" ", "-")
        place.mkdir()
        with Disk(place, SIZES[kind], *OPTIONS.get(kind, ()), kind=kind) as disk:
            _take(disk.place, ROOM)
            relay = Relay(disk.place / "data", reserve=reserve)
            relay.output = place / "relay.out"
            last = disk.place / "last"
            ballast = [last, *(disk.place / f"ballast-{number}" for number in range(cycles))]
            for each in ballast:
                each.write_bytes(os.urandom(min(BALLAST[kind], 8 * MIB // len(ballast))))
            with relay:
                path = relay.create_bucket("orders")
                token = relay.create_token()
                bodies: list[bytes] = []
                for number in range(cycles + 1):
                    status, more = _fill_for_good(relay, path, disk.place)
                    bodies += more
                    refused += status == 507
                    outcome.expect(status == 507, f"a full disk, {name}, gave {status}")
                    if not reserve:
                        _take_all(disk.place)
                    _wait_until(relay, 503)
                    log = [event.body for event in asyncio.run(read_log(relay, token, "orders"))]
                    outcome.expect(log == bodies, f"{name}: the log of a full disk is not what was acknowledged")
                    if number < cycles:
                        ballast[number + 1].unlink()
                        _wait_until(relay, 200)
                        healed += 1
                if not reserve:  # on a disk that is full to the last byte a relay starts only on some file systems
                    last.unlink()
                outcome.expect(relay.stop() == 0, "the relay did not end with 0")
                relay.start()
                log = [event.body for event in asyncio.run(read_log(relay, token, "orders"))]
                lost += len(set(bodies) - set(log))
                outcome.expect(log == bodies, f"{name}: after a restart the log is not what was acknowledged")
                outcome.expect("Traceback" not in relay.said(), relay.said())
            acknowledged += len(bodies)
    outcome.figures = {"times full": refused, "acknowledged": acknowledged, "lost": lost, "healed by itself": healed}
    return outcome


def _take(place: Path, room: int) -> None:
    """Takes what is free beyond the room."""
    with (place / "rest").open("wb") as file:
        while (more := disk_of(place).free - room) >= MIB:
            file.write(os.urandom(min(more // 2, 8 * MIB) + MIB // 2))
            file.flush()
            os.fsync(file.fileno())


def _take_all(place: Path) -> None:
    """Takes the last bytes, and syncs everything: a file system that writes each change to a new place then has none,
    not even for pages of a mapped file."""
    with (place / "last bytes").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(os.urandom(4096))
            os.fsync(file.fileno())
    _sync(place)


def _wait_until(relay: Relay, status: int) -> None:
    wait_for(lambda: relay.ready()[0] == status, f"/readyz to answer {status}")


def _fill_for_good(relay: Relay, path: str, place: Path) -> tuple[int, list[bytes]]:
    """Does what `_fill` does until the relay stays unready: btrfs has some space again a moment after it had none."""
    bodies: list[bytes] = []
    for _ in range(REFILLS):
        status, more = asyncio.run(_fill(relay, path))
        bodies += more
        if status == 507 and not _recovers(relay, place):
            break
    return status, bodies


def _recovers(relay: Relay, place: Path) -> bool:
    """Whether it is ready again once everything is synced, and the relay has looked at the disk again."""
    _sync(place)
    time.sleep(2.0)
    return relay.ready()[0] == 200


def _sync(place: Path) -> None:
    subprocess.run(("sync", "-f", str(place)), check=True, timeout=TIMEOUT)


async def _fill(relay: Relay, path: str) -> tuple[int, list[bytes]]:
    """Sends until it is refused; returns with which status, and what was acknowledged."""
    bodies: list[bytes] = []
    for number in range(MOST):
        body = b"%d " % number + os.urandom(50_000)
        async with Sender(relay, path) as sender:
            status = await sender.post(body)
        if status != 200:
            return status, bodies
        bodies.append(body)
    return 200, bodies
