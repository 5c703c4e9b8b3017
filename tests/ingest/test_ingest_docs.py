"""docs/ingest.md against the code: every answer, every header that dedupe looks for, every setting that it names."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from relay_tornado import errors, signatures
from relay_tornado.delivery import responses
from relay_tornado.ingest.endpoints import DELIVERY_IDS
from relay_tornado.registry.routes import RESERVED
from relay_tornado.settings import Settings
from relay_tornado.transport.limits import DISCARD_TIME, SMALL_BODY

TEXT = (Path(__file__).parents[2] / "docs" / "ingest.md").read_text()


def test_every_status_is_documented() -> None:
    """The table of answers has each status that a sender can get, and no other."""
    documented = {int(status) for status in re.findall(r"^\| (\d{3}) \|", TEXT, re.MULTILINE)}
    of_the_log = {
        error.status
        for error in (errors.Overloaded, errors.Unavailable, errors.Unknown, errors.NoSpace, errors.BucketGone)
    }
    assert documented == of_the_log | {400, 401, 408, 413, 429, 431, 504, errors.RelayError.status}


def test_settings_are_called_by_their_names() -> None:
    """Every setting that it names is one, and every setting of the group that limits senders is named."""
    names = {field.name for field in dataclasses.fields(Settings)}
    limiting = {"max_body", "large_max_body", "max_header", "ingest_buffer"}
    limiting |= {"head_timeout", "body_timeout", "idle_timeout"}
    assert limiting <= names
    for name in limiting:
        assert f"`{name}`" in TEXT
    limits = TEXT.partition("\n## Limits\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([a-z_]+)`", limits)) - {"large_webhooks"} <= names


def test_numbers_and_names() -> None:
    """The delivery ids and the fixed bounds are those of the code."""
    assert ", ".join(f"`{name}`" for name in DELIVERY_IDS) in TEXT
    assert f"for up to {DISCARD_TIME:.0f} seconds" in TEXT
    assert f"({SMALL_BODY >> 10} KiB)" in TEXT
    assert f"within {responses.WAIT:.0f} seconds" in TEXT
    assert f"{responses.MOST:,} senders may wait" in TEXT
    assert f"be {signatures.TOLERANCE} seconds from" in TEXT
    assert f"up to {signatures.MAX_SECRETS} secrets" in TEXT
    for provider in signatures.PROVIDERS:
        assert f"| `{provider}` |" in TEXT
    for path in RESERVED:
        assert f"`{path}`" in TEXT
