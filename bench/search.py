"""Searches in a long log: how long the first page takes, and what the index costs."""

from __future__ import annotations

import json
import random
import statistics
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from bench.fill import fill
from bench.servers import PinnedRelay, folder

REPEATS: Final = 9


def body(number: int, chance: random.Random, words: list[str]) -> bytes:
    """About 1 KiB of JSON as a payment provider sends it; no two have the same ids."""
    thing = {
        "id": f"ch_{chance.getrandbits(64):016x}",
        "amount": chance.randint(100, 99_999),
        "currency": chance.choice(["eur", "usd"]),
        "customer": f"cus_{chance.getrandbits(40):010x}",
        "email": f"{chance.choice(words)}.{chance.choice(words)}@{chance.choice(words)}.example",
        "description": " ".join(chance.choices(words, k=30)),
        "uuid": str(uuid.UUID(int=chance.getrandbits(128))),
        "metadata": {"order": number, "reference": f"ORD-{number:08d}"},
        "lines": [{"sku": f"SKU-{chance.randint(0, 9999):04d}", "price": chance.randint(1, 9999)} for _ in range(5)],
    }
    kind = chance.choice(["invoice.paid", "charge.failed", "order.created", "push"])
    event = {"id": f"evt_{chance.getrandbits(80):020x}", "type": kind, "created": 1_700_000_000 + number}
    return json.dumps({**event, "data": {"object": thing}, "livemode": False}).encode()


def filled(data: Path, bucket: dict[str, Any], count: int) -> dict[str, str]:
    """Puts so many events into a bucket of a relay that does not run; returns texts that one of them each has."""
    chance = random.Random(7)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 10))) for _ in range(5_000)]
    found: dict[str, str] = {}

    def made(number: int) -> bytes:
        content = body(number, chance, words)
        if number == count // 2:
            thing = json.loads(content)["data"]["object"]
            found["an id"], found["an address"] = thing["id"], thing["email"]
            found["a reference"], found["a part of a uuid"] = thing["metadata"]["reference"], thing["uuid"][3:20]
        return content

    fill(data, bucket, count, made)
    return found


class _Caller:
    def __init__(self, relay: PinnedRelay, secret: str) -> None:
        self._relay = relay
        self._headers = {"Authorization": f"Bearer {secret}"}

    def search(self, **query: Any) -> Any:
        url = f"{self._relay.url}/v1/search?{urlencode({'bucket': 'bench', **query})}"
        with urllib.request.urlopen(urllib.request.Request(url, headers=self._headers), timeout=120) as response:
            return json.loads(response.read())


def run(quick: bool, events: int) -> dict[str, Any]:
    """Milliseconds to the first page of 50 by kind of text, and the index's size and time."""
    events = min(events, 20_000) if quick else events
    with folder() as data:
        relay = PinnedRelay(data / "data", search_index=str(8 << 30))
        with relay:
            bucket = relay.command("bucket", "create", "bench")
            _, secret = relay.create_token()
            relay.stop()
            texts = filled(relay.data, bucket, events)
            began = time.monotonic()
            relay.start()
            caller = _Caller(relay, secret)
            while not ((page := caller.search(q="no such text at all"))["complete"] and page["indexed_up_to"]):
                time.sleep(0.2 if quick else 2)
            built, size = time.monotonic() - began, (relay.data / "search.db").stat().st_size
            texts |= {"in every event": "livemode", "in a quarter": "invoice.paid", "in none": "nowhere to be found"}
            print(f"search: {events} events; index built in {built:.0f} s, {size / events:.0f} bytes an event")
            results: dict[str, Any] = {"events": events, "built": built, "bytes": size / events}
            for kind, text in texts.items():
                times = []
                for _ in range(REPEATS):
                    begun = time.monotonic()
                    page = caller.search(q=text)
                    times.append((time.monotonic() - begun) * 1000)
                print(f"  {kind:18} {len(page['data']):3} found  median {statistics.median(times):7.1f} ms"
                      f"  first {times[0]:7.1f}  worst {max(times):7.1f}")  # fmt: skip
                results[kind] = {"found": len(page["data"]), "median": statistics.median(times), "worst": max(times)}
            return results
