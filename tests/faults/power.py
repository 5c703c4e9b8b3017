"""Loss of power under load: whatever was not synced is gone, and nothing that was acknowledged is among it.

The same with `synchronous=NORMAL` has to show losses: otherwise the harness would prove nothing.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from tests.acceptance.clients import read_log
from tests.acceptance.relay import Relay
from tests.faults.disk import MIB, Disk
from tests.faults.load import Load
from tests.faults.outcome import Outcome

SENDERS = 20
SIZE = 400 * MIB


class WeakRelay(Relay):
    """One with `synchronous=NORMAL`."""

    module = "tests.faults.weak"


def run(folder: Path, rounds: int, kind: str = "ext4") -> Outcome:
    """Takes the power from a relay that 20 senders load so many times, and so many times from the weakened one."""
    outcome = Outcome()
    losses = _rounds(folder / "full", Relay, rounds, kind, outcome)
    outcome.figures["losses of power"] = rounds
    outcome.figures["acknowledged"] = losses.acknowledged
    outcome.figures["lost"] = losses.events
    outcome.figures["false alarms"] = losses.noticed
    outcome.expect(losses.events == 0, f"{losses.events} acknowledged events were lost")
    outcome.expect(losses.noticed == 0, f"the witness told {losses.noticed} losses that there were none of")
    # Where everything was just copied into the file, and so synced, a round loses nothing: one in twenty.
    weak = max(rounds, 5)
    control = _rounds(folder / "weak", WeakRelay, weak, kind, outcome)
    outcome.figures["lost by synchronous=NORMAL"] = control.events
    outcome.figures["times"] = f"{control.times} of {weak}"
    outcome.figures["noticed"] = control.noticed
    outcome.expect(control.events > 0, "synchronous=NORMAL lost nothing: the harness takes no power")
    return outcome


class _Losses:
    def __init__(self) -> None:
        self.acknowledged = self.events = self.times = self.noticed = 0


def _rounds(folder: Path, relays: type[Relay], rounds: int, kind: str, outcome: Outcome) -> _Losses:
    folder.mkdir()
    losses = _Losses()
    with Disk(folder, SIZE, kind=kind) as disk:
        relay = relays(disk.place / "data")
        relay.output = folder / "relay.out"
        path = relay.create_bucket("orders")
        token = relay.create_token()
        gone: set[bytes] = set()
        loads: list[Load] = []
        with relay:
            for number in range(rounds):
                loads.append(Load(relay, path, f"round {number}", SENDERS))
                asyncio.run(_lose_power(disk, loads[-1]))
                relay.kill()
                disk.unmount()
                disk.mount()
                relay.start()
                losses.noticed += "committed_work_lost" in relay.said()
                kept = {event.body for event in asyncio.run(read_log(relay, token, "orders"))}
                missing = {body for load in loads for bodies in load.acknowledged for body in bodies} - kept - gone
                losses.events += len(missing)
                losses.times += bool(missing)
                gone |= missing
            checked = relay.command("check")
            outcome.expect(checked["findings"] == [], f"relay check found {checked['findings']}")
    losses.acknowledged = sum(load.count for load in loads)
    return losses


async def _lose_power(disk: Disk, load: Load) -> None:
    sending = asyncio.ensure_future(load.run())
    await load.until(random.randint(50, 400))
    # Nobody runs on without power. And the call that takes it lets a sync that is under way return 0 for what is gone:
    # fdatasync alone, with no relay, did so in 62 of 854 times.
    load.relay.freeze()
    disk.lose_power()
    load.relay.kill()
    await sending
