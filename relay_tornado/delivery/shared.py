"""What all deliveries of a relay have in common."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from relay_tornado.counters import Counters
from relay_tornado.delivery.dispatch import Dispatcher
from relay_tornado.delivery.flight import Flight
from relay_tornado.delivery.frames import FrameCache
from relay_tornado.delivery.group import Groups
from relay_tornado.delivery.receipts import Receipts
from relay_tornado.delivery.subscription import Directory
from relay_tornado.delivery.turns import Turns
from relay_tornado.limits import LogLimit
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledgers


@dataclass(frozen=True, slots=True)
class Shared:
    """What all deliveries of a relay have in common."""

    log: EventLog
    ledgers: Ledgers
    directory: Directory
    cache: FrameCache
    dispatcher: Dispatcher
    flight: Flight
    turns: Turns
    counters: Counters
    groups: Groups
    receipts: Receipts
    gap_lines: LogLimit = field(default_factory=LogLimit)
    """Of the log, on what subscribers miss."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Of the deliveries that are at work, ended ones in their last write too."""
