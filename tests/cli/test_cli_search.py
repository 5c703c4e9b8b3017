"""`relay search`: the same through a running relay, over REST, and with none running."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay_tornado.admin import searching
from relay_tornado.search.index import Covered, Index
from tests.cli.runner import Runner
from tests.cli.server import WAYS, Server, reaching, serving


@WAYS
def test_search(relay: Runner, way: str) -> None:
    """By text and by options, newest first, with a cursor, as a table or as JSON."""
    made = relay.json("bucket", "create", "orders")
    relay.json("bucket", "create", "other")

    def prepare(server: Server) -> None:
        for number in range(3):
            server.send(made["inputs"][0]["id"], b'{"ref": "ORD-%d"}' % number, **{"X-Kind": "order"})

    with reaching(relay.data, way, prepare) as variables:
        check(relay, variables)


def check(relay: Runner, variables: dict[str, str]) -> None:
    page = relay.json("search", "ord-", "--bucket", "orders", "--limit", "2", **variables)
    assert [each["seq"] for each in page["data"]] == [3, 2]
    assert f"go on with --cursor {page['next_cursor']}\n" in relay("search", "ord-", "--limit", "2", **variables).stderr
    older = relay.json("search", "ord-", "--cursor", page["next_cursor"], **variables)
    assert [each["seq"] for each in older["data"]] == [1]
    assert [each["seq"] for each in relay.json("search", '"ref": "ORD-1"', **variables)["data"]] == [2]
    assert relay.json("search", "--bucket", "other", **variables)["data"] == []
    options = (
        "--header",
        "X-Kind: order",
        "--method",
        "POST",
        "--verified",
        "none",
        "--delivery",
        "received",
        "--since",
        "1h",
    )
    assert len(relay.json("search", *options, **variables)["data"]) == 3
    assert relay.json("search", "--until", "1h", **variables)["data"] == []
    table = relay("search", "ORD-2", **variables)
    assert table.exit_code == 0
    assert page["data"][0]["id"] in table.stdout
    assert "no event was found" in relay("search", "nothing like it", **variables).stderr
    assert "cursor" in relay.refused("search", "--cursor", "x", **variables)


def test_what_was_not_looked_at_is_told(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds nothing is told that there may be something."""
    monkeypatch.setattr(Index, "covered", lambda self, bucket_id: Covered(1, 0))
    monkeypatch.setattr(searching, "_UNINDEXED", 0)
    made = relay.json("bucket", "create", "orders")
    with serving(relay.data) as server:
        server.send(made["inputs"][0]["id"], b"needle")
        for arguments, told in (((), False), (("needle",), True)):
            answer = relay("search", *arguments)
            assert answer.exit_code == 0
            assert ("some older events were not looked at" in answer.stderr) is told
            assert ("no event was found" in answer.stderr) is told


def test_a_restore_passes_over_what_stands_aside(relay: Runner, tmp_path: Path) -> None:
    """The index and the series of before are in no restore's way."""
    relay.json("bucket", "create", "orders")
    relay("backup", str(tmp_path / "b.db"))
    folder = tmp_path / "again"
    folder.mkdir()
    for name in ("search.db", "search.db-wal", "series.db"):
        (folder / name).touch()
    restored = relay("restore", str(tmp_path / "b.db"), RELAY_DATA=str(folder))
    assert restored.exit_code == 0, restored.stderr
