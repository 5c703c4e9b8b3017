"""What `relay stats` prints for people."""

from __future__ import annotations

from tests.cli.runner import Runner


def test_a_bucket_that_holds_nothing_has_no_times(relay: Runner) -> None:
    """It may have had events, and they have left: so it does not say "never"."""
    relay.json("bucket", "create", "orders")
    line = next(each for each in relay("stats").stdout.splitlines() if each.startswith("orders"))
    assert line.split()[1:5] == ["0", "0", "bytes", "empty"]
    assert "never" not in line


def test_an_ephemeral_bucket_has_no_size(relay: Runner) -> None:
    """Its events count, but nothing of them is stored."""
    relay.json("bucket", "create", "orders", "--ephemeral")
    line = next(each for each in relay("stats").stdout.splitlines() if each.startswith("orders"))
    assert line.split()[1:4] == ["0", "not", "stored"]
    assert [each["ephemeral"] for each in relay.json("stats")["buckets"]] == [True]
