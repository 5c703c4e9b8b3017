"""What the doctor says about the webhooks' way through a running relay."""

from __future__ import annotations

from typing import Any

import pytest

from relay_tornado.doctor import flow
from relay_tornado.doctor.finding import Finding

DAY = 86_400.0
NOW = 1_800_000_000.0


def output(**changes: Any) -> dict[str, Any]:
    plain = {"id": "out-1", "name": "shop", "number": 1, "internal": False, "disabled": False, "disabled_reason": ""}
    return {**plain, "paused": False, "rules": None, "updated_at": 0, **changes}


def bucket(*outputs: dict[str, Any]) -> dict[str, Any]:
    return {"id": "b-1", "name": "orders", "outputs": list(outputs)}


def consumer(**changes: Any) -> dict[str, Any]:
    plain = {"bucket_id": "b-1", "bucket_name": "orders", "kind": "client", "name": "workers", "connections": 1}
    lag = {"events": 9, "seconds": 0.0}
    return {**plain, "pending": 9, "out": 3, "dead": 0, "gaps": None, "lag": lag, **changes}


def late(**changes: Any) -> dict[str, Any]:
    return consumer(lag={"events": 9, "seconds": 7200.0}, **changes)


def refusal(**changes: Any) -> dict[str, Any]:
    plain = {"bucket": "orders", "input": "web", "reason": "signature", "why": "no match", "count": 3, "at": 1000.0}
    return {**plain, "hint": "compare the secrets", **changes}


def logs(**newest: float) -> Any:
    """Answers `logs.list`: by bucket, or "all", when the newest event was received."""

    def call(command: str, bucket: str = "all", **_: Any) -> Any:
        assert command == "logs.list"
        at = newest.get(bucket.replace("-", ""))
        return {"data": [] if at is None else [{"created_at": at}]}

    return call


def test_refusals() -> None:
    """Each says where, how many, why, when, and what to do; those of long ago do not count."""
    said = list(flow.refusals([refusal(), refusal(at=1000.0 - 2 * DAY)], 1010.0))
    assert said == [
        Finding(
            "refused",
            "warn",
            "bucket orders, input web: 3 webhooks refused since the start, the last one 10 s ago: signature (no match)",
            "compare the secrets",
        )
    ]
    (said,) = flow.refusals([refusal(bucket="", input="", reason="not_found", why="")], 1010.0)
    assert said.says.startswith("unknown URLs: 3 webhooks")
    assert [each.level for each in flow.refusals([], 0.0)] == ["ok"]


def test_many_of_a_kind_are_cut() -> None:
    """A few say what is wrong, and the rest is a number."""
    said = list(flow.refusals([refusal()] * 40, 1010.0))
    assert (len(said), said[-1].says) == (6, "and 35 more like these")


def test_control_characters_of_a_name_do_not_reach_the_terminal() -> None:
    (said,) = flow.refusals([refusal(input="a\x1b[2J")], 1010.0)
    assert "\x1b" not in said.says


@pytest.mark.parametrize(
    ("changes", "circuits", "says", "remedy"),
    [
        ({"disabled": True}, {}, "is disabled", "relay output set out-1 --enabled"),
        ({"disabled": True, "disabled_reason": "410"}, {}, "by the relay: 410", "--enabled"),
        ({"paused": True}, {}, "is paused", "relay output resume out-1"),
        ({}, {"out-1": "certificate has expired"}, "certificate has expired", "repair the destination"),
    ],
)
def test_outputs_that_send_nothing(changes: dict[str, Any], circuits: dict[str, str], says: str, remedy: str) -> None:
    (said,) = flow.outputs([bucket(output(**changes))], circuits)
    assert (said.level, says in said.says, remedy in said.remedy) == ("warn", True, True)


def test_outputs_that_send() -> None:
    """They are well; where there is none, nothing is said."""
    assert [each.level for each in flow.outputs([bucket(output())], {})] == ["ok"]
    assert list(flow.outputs([bucket()], {})) == []


def test_rules_that_let_nothing_pass() -> None:
    """They are told once events came since the output was changed, and none of the newest is for it."""
    asked = []

    def call(command: str, **options: Any) -> Any:
        asked.append(options)
        found = () if "output" in options else ({"created_at": 50}, {"created_at": 40}, {"created_at": 20})
        return {"data": list(found)}

    (said,) = flow.rules([bucket(output(rules={"match": {}}, updated_at=30))], call)
    many = list(flow.rules([bucket(output(rules={"match": {}}, updated_at=30))] * 40, call))
    assert (len(many), many[-1].says) == (6, "and 35 more like these")
    assert "none of the newest 2 events passes" in said.says
    assert asked[1]["since"] == 40
    assert list(flow.rules([bucket(output(rules={"match": {}}, updated_at=60))], call)) == []
    assert list(flow.rules([bucket(output())], call)) == []
    passes = lambda command, **options: {"data": [{"created_at": 50}]}  # noqa: E731
    assert list(flow.rules([bucket(output(rules={"match": {}}))], passes)) == []


@pytest.mark.parametrize(
    ("one", "says", "remedy"),
    [
        (late(connections=0), "nobody is connected, 9 events pending, the oldest for 2 hours", "relay consumer delete"),
        (late(connections=2), "2 connections, 9 events pending", "restart it"),
        (late(kind="output", name="1"), "orders, output:1: 9 events pending", "relay logs list --status stalled"),
        (late(kind="output", name="1", output_name="s\x1bp"), "output:1 (s\\x1bp): 9", "relay logs list"),
        (late(output_name=None), "orders, workers: 1 connection, 9 events pending", "restart it"),
        (consumer(dead=4, kind="output", name="1", output_name="shop"), "4 dead letters", "dead orders output:1 lists"),
        (consumer(dead=4), "4 dead letters", "relay consumer dead orders workers"),
        (
            consumer(
                gaps={"times": 1, "last": {"from": 2, "to": 9, "reason": "retention"}, "at": NOW - 30},
            ),
            "it missed events 2 to 9 (retention)",
            "--wait-for-consumers",
        ),
        (
            consumer(gaps={"times": 1, "last": {"from": None, "to": None, "reason": "reset"}, "at": NOW}),
            "it missed events (reset)",
            "relay consumer show",
        ),
    ],
)
def test_consumers_that_do_not_get_on(one: dict[str, Any], says: str, remedy: str) -> None:
    (said,) = flow.standings([one], set(), NOW)
    assert (said.level, says in said.says, remedy in said.remedy) == ("warn", True, True)


def test_a_client_whose_name_is_like_an_outputs_reference_is_not_taken_for_the_output() -> None:
    """What is known of the output says nothing of it, and the command is about the client."""
    (said,) = flow.standings([late(name="output:1", connections=0)], {("b-1", "output:1")}, NOW)
    assert "relay consumer delete orders client:output:1" in said.remedy


def test_a_command_to_paste_does_nothing_else() -> None:
    """A client chooses its consumer's name, and a bucket's name may have spaces."""
    gaps = {"times": 1, "last": {"from": 2, "to": 9, "reason": "retention"}, "at": NOW}
    one = late(bucket_name="my orders", name="x; reboot", connections=0, dead=1, gaps=gaps)
    remedies = [each.remedy for each in flow.standings([one], set(), NOW)]
    assert len(remedies) == 3
    assert all("'my orders' 'x; reboot'" in each for each in remedies)
    assert not [each for each in remedies if "reboot" in each.replace("'x; reboot'", "")]
    assert remedies[2].endswith("relay bucket set 'my orders' --wait-for-consumers")


def test_consumers_that_get_on() -> None:
    """They are well, and so is one of an output of which it was told why it sends nothing; an old gap is past."""
    old = consumer(gaps={"times": 1, "last": {"reason": "retention"}, "at": NOW - 2 * DAY})
    stopped = late(kind="output", name="1")
    assert [each.level for each in flow.standings([consumer(), old, stopped], {("b-1", "output:1")}, NOW)] == ["ok"]


def test_a_bucket_that_nobody_reads() -> None:
    """It is told if it gets events; a client, a consumer or a public output is somebody."""
    client = {"behind": {"b-1": 0}}
    (said,) = flow.readers([bucket(output(internal=True))], [], [], logs(b1=900.0), 1000.0)
    assert (said.level, said.says.startswith("orders: gets events")) == ("warn", True)
    for buckets, consumers, clients, newest in (
        ([bucket()], [], [client], 900.0),
        ([bucket()], [consumer()], [], 900.0),
        ([bucket(output())], [], [], 900.0),
        ([bucket()], [], [], 900.0 - 2 * DAY),
    ):
        said, *more = flow.readers(buckets, consumers, clients, logs(b1=newest), 1000.0)
        assert (said.level, more) == ("ok", [])


def test_events_of_the_future() -> None:
    """A clock that was ahead and was set back is told by its events."""
    (said,) = flow.ahead(logs(all=1000.0 + 3 * DAY), 1000.0)
    assert (said.level, "3 days in the future" in said.says) == ("warn", True)
    assert list(flow.ahead(logs(all=1000.0), 1000.0)) == []
    assert list(flow.ahead(logs(), 1000.0)) == []


@pytest.mark.parametrize(("used", "level"), [(5, "ok"), (18, "warn"), (20, "fail")])
def test_connections(used: int, level: str) -> None:
    (said,) = flow.connections({"connections": used, "connections_limit": 20})
    assert (said.level, said.remedy == "") == (level, level == "ok")


def test_files_that_could_not_be_used() -> None:
    """The reason why a renewed certificate, or a backup, failed; where all is well nothing is said."""
    said = list(flow.files({"certificate": "it can't be read", "backup": "no space"}))
    assert [(each.name, each.level) for each in said] == [("renewal", "fail"), ("backup", "warn")]
    assert ("it can't be read" in said[0].says, "no space" in said[1].says) == (True, True)
    assert list(flow.files({"certificate": "", "backup": ""})) == []


def test_an_earlier_relay() -> None:
    """It tells nothing of its troubles, and the rest is looked at."""
    answers: dict[str, Any] = {"bucket.list": [], "consumer.list": [], "client.list": [], "logs.list": {"data": []}}
    assert list(flow.look({"version": "0.5.20"}, lambda command, **_: answers[command])) == []


def test_of_an_earlier_relay_it_is_not_said_that_no_output_fails() -> None:
    answers: dict[str, Any] = {"bucket.list": [bucket(output())], "consumer.list": []}
    answers |= {"client.list": [], "logs.list": {"data": []}}

    def said(info: dict[str, Any]) -> list[str]:
        return [each.says for each in flow.look(info, lambda command, **_: answers[command]) if each.name == "outputs"]

    assert said({"troubles": {"circuits": {}}}) == ["none is disabled, paused or failing"]
    assert said({}) == ["none is disabled or paused"]
