"""Checks the way of the webhooks through a running relay: whether it refuses them, and whether anybody gets them.

It goes by what the relay answers to commands; see admin/commands.py and wire/rest.py for the forms.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from relay_tornado.doctor.finding import Finding
from relay_tornado.log.consumers import reference_of, with_output_name
from relay_tornado.model import DAY, counted, printable

Document: TypeAlias = Mapping[str, Any]

LATE: Final = 60.0
"""Seconds for which an event may wait for a consumer before that is told."""

RECENT: Final = DAY
"""Seconds for which what happened once is told."""

NEWEST: Final = 50
"""How many of a bucket's newest events are held against an output's rules."""

_AHEAD: Final = 60.0
"""Seconds that the newest event may be ahead of the clock."""

_SHOWN: Final = 5
"""The most of one kind that are told one by one."""


def look(info: Document, call: Callable[..., Any]) -> Iterator[Finding]:
    """Yields the findings. `info` is the answer to `relay.info`; `call` runs another command of the running relay."""
    troubles = info.get("troubles", {})  # a relay before 0.5.21 has none
    buckets = call("bucket.list")
    consumers = call("consumer.list")
    yield from connections(troubles)
    yield from files(troubles)
    now = time.time()
    if "refusals" in troubles:
        yield from refusals(troubles["refusals"], now)
    yield from outputs(buckets, troubles.get("circuits"))
    yield from rules(buckets, call)
    yield from standings(consumers, _stopped(buckets, troubles), now)
    yield from readers(buckets, consumers, call("client.list"), call, now)
    yield from ahead(call, now)


def _some(name: str, findings: Sequence[Finding], well: str) -> Iterator[Finding]:
    """The findings, so many at most; or that all is well."""
    yield from _few(name, findings)
    if not findings:
        yield Finding(name, "ok", well)


def _few(name: str, findings: Sequence[Finding]) -> Iterator[Finding]:
    """The findings, so many at most."""
    yield from findings[:_SHOWN]
    if len(findings) > _SHOWN:
        yield Finding(name, findings[_SHOWN].level, f"and {len(findings) - _SHOWN} more like these")


def connections(troubles: Document) -> Iterator[Finding]:
    """Whether more clients can connect."""
    used, most = troubles.get("connections"), troubles.get("connections_limit")
    if used is None or not most:
        return
    says = f"{used} of {most} are open"
    if used >= 0.9 * most:
        yield Finding(
            "connections",
            "fail" if used >= most else "warn",
            f"{says}; beyond that, they are closed at once",
            "see whose they are: ss -tn | awk '{print $5}' | sort | uniq -c | sort -n; then raise --max-connections "
            "and LimitNOFILE=",
        )
    else:
        yield Finding("connections", "ok", says)


def files(troubles: Document) -> Iterator[Finding]:
    """Whether the last renewal of the certificate and the last backup worked."""
    if problem := troubles.get("certificate"):
        yield Finding(
            "renewal",
            "fail",
            f"the certificate's files were changed and can't be used, so the earlier one is in use: {problem}",
            "let the relay's user read both files, and have them belong together; the relay tries again by itself",
        )
    if problem := troubles.get("backup"):
        yield Finding(
            "backup",
            "warn",
            f"the last one failed: {problem}",
            "docs/operations.md says what to do (RelayBackupFailed)",
        )


def refusals(found: Sequence[Document], now: float) -> Iterator[Finding]:
    """Which webhooks were refused in the last day, by input and reason."""
    told = [
        Finding(
            "refused",
            "warn",
            f"{_place(each)}: {counted(each['count'], 'webhook')} refused since the start, the last one "
            f"{_span(now - each['at'])} ago: {each['reason']}"
            + (f" ({printable(each['why'])})" if each["why"] else ""),
            each["hint"],
        )
        for each in found
        if now - each["at"] < RECENT
    ]
    yield from _some("refused", told, "no input refused a webhook in the last day")


def _place(refusal: Document) -> str:
    if not refusal["bucket"]:
        return "unknown URLs"
    return f"bucket {refusal['bucket']}, input {printable(refusal['input'])}"


def outputs(buckets: Sequence[Document], circuits: Mapping[str, str] | None) -> Iterator[Finding]:
    """Which outputs send nothing. `circuits` has the reasons for open circuits, by the outputs' ids; None if the relay
    does not tell them."""
    well = "none is disabled or paused" if circuits is None else "none is disabled, paused or failing"
    circuits, told, found = circuits or {}, [], list(_outputs(buckets))
    for bucket, output in found:
        if output["disabled"]:
            says = f"is disabled, by the relay: {why}" if (why := output["disabled_reason"]) else "is disabled"
            remedy = f"to send again: relay output set {output['id']} --enabled"
        elif output["paused"]:
            says = "is paused (a restore pauses public outputs); its events wait in the log"
            remedy = f"to send again: relay output resume {output['id']}"
        elif (why := circuits.get(output["id"])) is not None:
            says = f"ten tries or more in a row failed, so it is left alone for a while: {printable(why)}"
            remedy = "repair the destination; the relay tries it every 5 minutes at least, and at once after a change"
        else:
            continue
        told.append(Finding("outputs", "warn", f"{bucket['name']}, {printable(output['name'])}: {says}", remedy))
    if found:
        yield from _some("outputs", told, well)


def _outputs(buckets: Sequence[Document]) -> Iterator[tuple[Document, Document]]:
    return ((bucket, output) for bucket in buckets for output in bucket["outputs"])


def _stopped(buckets: Sequence[Document], troubles: Document) -> set[tuple[str, str]]:
    """The consumers (bucket's id and name) of outputs that another finding is about."""
    return {
        (bucket["id"], reference_of("output", output["number"]))
        for bucket, output in _outputs(buckets)
        if output["disabled"] or output["paused"] or output["id"] in troubles.get("circuits", ())
    }


def rules(buckets: Sequence[Document], call: Callable[..., Any]) -> Iterator[Finding]:
    """Which outputs have rules that let none of the newest events pass."""
    yield from _few("rules", list(_closed(buckets, call)))


def _closed(buckets: Sequence[Document], call: Callable[..., Any]) -> Iterator[Finding]:
    for bucket, output in _outputs(buckets):
        if not output["rules"] or output["disabled"]:
            continue
        newest = call("logs.list", bucket=bucket["id"], limit=NEWEST)["data"]
        newest = [each for each in newest if each["created_at"] > output["updated_at"]]
        if not newest:
            continue
        since = newest[-1]["created_at"]
        if call("logs.list", bucket=bucket["id"], output=output["id"], since=since, limit=1)["data"]:
            continue
        changed = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(output["updated_at"]))
        yield Finding(
            "rules",
            "warn",
            f"{bucket['name']}, {printable(output['name'])}: none of the newest {counted(len(newest), 'event')} "
            f"passes its rules (it was last changed {changed})",
            f"if one should: relay output rules {output['id']} shows them",
        )


def standings(consumers: Sequence[Document], known: set[tuple[str, str]], now: float) -> Iterator[Finding]:
    """Which consumers do not get on, gave events up, or missed some. `known` are those of which it was told why."""
    told = []
    for each in consumers:
        bucket, reference = each["bucket_name"], reference_of(each["kind"], each["name"])
        arguments = f"{shlex.quote(bucket)} {shlex.quote(printable(reference))}"
        name = printable(with_output_name(reference, each.get("output_name")))  # a relay before 0.5.25 has none
        for says, remedy in _standing(each, arguments, (each["bucket_id"], reference) in known, now):
            told.append(Finding("consumers", "warn", f"{bucket}, {name}: {says}", remedy))
    if consumers:
        yield from _some("consumers", told, "none lags, gave events up or missed any")


def _standing(consumer: Document, arguments: str, known: bool, now: float) -> Iterator[tuple[str, str]]:
    """What is wrong with a consumer, and what to do about it. `arguments` name it in a command; `known`: it was told
    why it lags."""
    if consumer["lag"]["seconds"] > LATE and not known:
        waits = f"{counted(consumer['pending'], 'event')} pending, the oldest for {_span(consumer['lag']['seconds'])}"
        if consumer["kind"] == "output":
            yield waits, "the answers of its destination: relay logs list --status stalled"
        elif not consumer["connections"]:
            yield (
                f"nobody is connected, {waits}",
                "start its application, with a valid token (relay token list); if nobody needs it: "
                f"relay consumer delete {arguments}",
            )
        else:
            yield (
                f"{counted(consumer['connections'], 'connection')}, {waits}; {consumer['out']} of them are out and not "
                "acked",
                "its application hangs or is too slow: restart it, or start more; relay stats names the clients",
            )
    if consumer["dead"]:
        yield (
            f"{counted(consumer['dead'], 'dead letter')}, which it gave up",
            f"relay consumer dead {arguments} lists them with their reasons; "
            f"relay consumer resend {arguments} --all sends them again",
        )
    gaps = consumer["gaps"]
    if gaps is not None and now - gaps["at"] < RECENT:
        # No time: while nobody uses the consumer, it is that of this look.
        last = gaps["last"]
        which = "events" if last["from"] is None else f"events {last['from']} to {last['to']}"
        yield (
            f"it missed {which} ({last['reason']})",
            f"relay consumer show {arguments} says which; to keep more: "
            f"relay bucket set {shlex.quote(consumer['bucket_name'])} --wait-for-consumers",
        )


def readers(
    buckets: Sequence[Document],
    consumers: Sequence[Document],
    clients: Sequence[Document],
    call: Callable[..., Any],
    now: float,
) -> Iterator[Finding]:
    """Which buckets get events that nobody gets."""
    read = {bucket_id for client in clients for bucket_id in client["behind"]}
    read |= {each["bucket_id"] for each in consumers}
    read |= {bucket["id"] for bucket, output in _outputs(buckets) if not output["internal"]}
    told = []
    for bucket in buckets:
        if bucket["id"] not in read and now - _newest(call, bucket=bucket["id"]) < RECENT:
            says = f"{bucket['name']}: gets events, and has no subscribed client, no consumer and no public output"
            remedy = (
                "start the application; one that ends with 4503 has a revoked token: relay token list, token create"
            )
            told.append(Finding("readers", "warn", says, remedy))
    if buckets:
        yield from _some("readers", told, "every bucket that gets events has somebody who reads it")


def ahead(call: Callable[..., Any], now: float) -> Iterator[Finding]:
    """Whether the newest event is in the future."""
    seconds = _newest(call) - now
    if seconds > _AHEAD:
        yield Finding(
            "times",
            "warn",
            f"the newest event was received {_span(seconds)} in the future: the clock was ahead, and was set back, or "
            "it is behind now",
            "see to the clock (timedatectl); if it is right now, nothing is to be done: until that time a bucket's new "
            "events get the same time as its newest, and leave by age so much later",
        )


def _newest(call: Callable[..., Any], **place: str) -> float:
    """When the newest event was received, in unix seconds; 0 if there is none."""
    found = call("logs.list", limit=1, **place)["data"]
    return float(found[0]["created_at"]) if found else 0.0


def _span(seconds: float) -> str:
    for size, unit in ((DAY, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
