"""`relay token`, run in this process on a fresh directory."""

import contextlib
import re
import sqlite3
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.cli.runner import Runner


def test_a_token_for_all(relay: Runner) -> None:
    """It makes the data directory; --json prints key and secret, and nothing shows the secret again."""
    made = relay.json("token", "create")
    assert list(made) == ["key", "secret"]
    assert made["secret"].startswith("sk-rly_")
    (listed,) = relay.json("token", "list")
    assert (listed["key"], listed["api_access"], listed["scopes"]["buckets"]) == (made["key"], "enabled", [])
    shown = relay("token", "create", "--description", "for people").stdout
    assert "nobody can show it again" in shown
    (secret,) = re.findall(r"^secret +(\S+)$", shown, re.MULTILINE)
    assert secret.startswith("sk-rly_")
    everything = relay("token", "list").output + relay("token", "list", "--json").output
    assert made["secret"] not in everything
    assert secret not in everything
    assert not re.search(rb"sk-rly_", b"".join(file.read_bytes() for file in relay.data.iterdir()))


def test_every_option_of_a_token(relay: Runner) -> None:
    """By flags and by variables; a repeated --bucket is a list with commas in its variable."""
    first = relay.json("bucket", "create", "orders, all")
    second = relay.json("bucket", "create", "billing")
    third = relay.json("bucket", "create", "two words")
    relay.json("token", "create", "--bucket", "orders, all", "--bucket", second["id"], "--api-access", "disabled")
    relay.json(
        *("token", "create"),
        RELAY_TOKEN_BUCKET="billing, two words",
        RELAY_TOKEN_API_ACCESS="disabled",
        RELAY_TOKEN_DESCRIPTION="d",
        RELAY_TOKEN_EXPIRES="2h",
    )
    one, two = relay.json("token", "list")
    assert set(one["scopes"]["buckets"]) == {first["id"], second["id"]}
    assert set(two["scopes"]["buckets"]) == {second["id"], third["id"]}
    assert (one["api_access"], two["api_access"], two["description"]) == ("disabled", "disabled", "d")
    relay("bucket", "delete", "billing", "--yes")
    table = relay("token", "list").stdout
    assert "two words" in table
    assert f"{second['id']} (deleted)" in table


def test_a_durable_token(relay: Runner) -> None:
    """When it is made, later, and no more; the list says which are."""
    made = relay.json("token", "create", "--durable")
    relay.json("token", "create", RELAY_TOKEN_DURABLE="1")
    plain = relay.json("token", "create")
    assert [each["durable"] for each in relay.json("token", "list")] == [True, True, False]
    assert "DURABLE" in relay("token", "list").stdout
    assert relay.json("token", "set", plain["key"], "--durable")["durable"] is True
    assert relay.json("token", "set", made["key"], "--no-durable")["durable"] is False
    assert [each["durable"] for each in relay.json("token", "list")] == [False, True, True]
    assert "keeps the position" in relay("token", "set", plain["key"], "--durable").stdout
    assert relay("token", "set", plain["key"]).exit_code == 2, "one of the two has to be said"
    assert relay("token", "set", "nobody", "--durable").exit_code == 1


def test_when_a_token_expires(relay: Runner) -> None:
    """A time from now, a date, a date with time and zone, unix seconds or none."""
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
    for text, expected in (
        ("30d", time.time() + 30 * 86_400),
        (str(int(soon.timestamp())), soon.timestamp()),
        (str(soon.timestamp() + 0.5), soon.timestamp() + 0.5),
        (soon.strftime("%Y-%m-%d"), soon.replace(hour=0, minute=0, second=0).timestamp()),
        (soon.strftime("%Y-%m-%dT%H:%M:%S+01:00"), soon.timestamp() - 3600),
        (soon.strftime("%Y-%m-%d %H:%M:%SZ"), soon.timestamp()),
        (soon.strftime("%Y-%m-%dt%H:%M:%Sz"), soon.timestamp()),
        ("none", None),
    ):
        made = relay.json("token", "create", "--expires", text)
        (listed,) = [token for token in relay.json("token", "list") if token["key"] == made["key"]]
        if expected is None:
            assert listed["expires_at"] is None
        else:
            assert abs(listed["expires_at"] - expected) < 120


@pytest.mark.parametrize(
    "text",
    ["soon", "0", "90", "90.5", "2020-01-01", "1700000000", "1700000000.5", "-1d", "9" * 30, "9999999d", "", "0s"],
)
def test_times_that_are_none(relay: Runner, text: str) -> None:
    """A time in the past, too far away, or not a time is refused with a hint, and no token is made."""
    result = relay("token", "create", "--expires", text)
    assert result.exit_code in (1, 2)
    assert result.stdout == ""
    assert "30d" in result.stderr or "year 10000" in result.stderr
    assert not relay.data.exists() or relay.json("token", "list") == []


def test_the_last_use_of_a_token_is_listed(relay: Runner) -> None:
    """Also where no relay runs: what one has written is shown, and "never" before that, or where it is damaged."""
    made = relay.json("token", "create")
    assert relay.json("token", "list")[0]["last_used_at"] is None
    header, line = relay("token", "list").stdout.splitlines()[:2]
    assert line[header.index("LAST USED") :].startswith("never")
    for used_at, shown in ((1_800_000_000, "2027-01-15 08:00 UTC"), (1 << 62, "never"), (-1 << 62, "never")):
        with contextlib.closing(sqlite3.connect(relay.data / "relay.db", isolation_level=None)) as raw:
            raw.execute("UPDATE token SET used_at = ? WHERE key = ?", (used_at, made["key"]))
        line = relay("token", "list").stdout.splitlines()[1]
        assert line[header.index("LAST USED") :].startswith(shown)


def test_an_expired_token_is_listed_as_such(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays in the list until it is revoked."""
    made = relay.json("token", "create", "--expires", "1h")
    assert "(expired)" not in relay("token", "list").stdout
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    assert "(expired)" in relay("token", "list").stdout
    relay.json("token", "revoke", made["key"])


def test_revoking(relay: Runner) -> None:
    """A key is revoked once; an unknown bucket in a scope makes no token."""
    relay("bucket", "create", "orders")
    made = relay.json("token", "create", "--bucket", "orders")
    assert "there is no bucket 'nothing'" in relay.refused("token", "create", "--bucket", "nothing")
    assert relay.json("token", "revoke", made["key"]) == {"id": made["key"], "status": "deleted"}
    assert "relay token list" in relay.refused("token", "revoke", made["key"])
    again = relay.json("token", "create")
    said = f"this is the secret of a token, not its key: its key is {again['key']}"
    assert relay.refused("token", "revoke", again["secret"]) == said
    assert relay("token", "revoke", again["key"]).stdout == f"Revoked the token {again['key']}.\n"
    assert relay.json("token", "list") == []
