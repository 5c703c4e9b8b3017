"""A full disk: senders get 507, nothing that was acknowledged is lost, reads go on, and it heals without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
from pathlib import Path

from tests.acceptance.clients import Sender, read_log
from tests.acceptance.relay import TIMEOUT, Relay, wait_for
from tests.faults.disk import MIB, Disk
from tests.faults.outcome import Outcome

SIZE = 16 * MIB
RESERVES = {"with a reserve": 2 * MIB, "with none": 0}
BALLAST = 2 * MIB
"""What somebody else has on the disk, and removes: this much at a time."""
MOST = 1_000


def ready(relay: Relay) -> int:
    """The status of /readyz."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", relay.port, timeout=TIMEOUT)) as connection:
        connection.request("GET", "/readyz")
        return connection.getresponse().status


def run(folder: Path, cycles: int) -> Outcome:
    """Fills a disk of 16 MiB and frees some of it so many times, with a reserve and with none."""
    outcome = Outcome()
    acknowledged = refused = healed = lost = 0
    for name, reserve in RESERVES.items():
        place = folder / name.replace(" ", "-")
        place.mkdir()
        with Disk(place, SIZE, "-O", "^has_journal") as disk:
            relay = Relay(disk.place / "data", reserve=reserve)
            relay.output = place / "relay.out"
            last = disk.place / "last"
            ballast = [last, *(disk.place / f"ballast-{number}" for number in range(cycles))]
            for each in ballast:
                each.write_bytes(os.urandom(min(BALLAST, 8 * MIB // len(ballast))))
            with relay:
                path = relay.create_bucket("orders")
                token = relay.create_token()
                bodies: list[bytes] = []
                for number in range(cycles + 1):
                    status, more = asyncio.run(_fill(relay, path))
                    bodies += more
                    refused += status == 507
                    outcome.expect(status == 507, f"a full disk, {name}, gave {status}")
                    _wait_until(relay, 503)
                    log = [event.body for event in asyncio.run(read_log(relay, token, "orders"))]
                    outcome.expect(log == bodies, f"{name}: the log of a full disk is not what was acknowledged")
                    if number < cycles:
                        ballast[number + 1].unlink()
                        _wait_until(relay, 200)
                        healed += 1
                if not reserve:  # on a disk that is full to the last byte no relay starts
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


def _wait_until(relay: Relay, status: int) -> None:
    wait_for(lambda: ready(relay) == status, f"/readyz to answer {status}")


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
