"""`relay replay`: sends a range of stored events again, to a URL by the command itself, or to an output or consumer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click
from click.core import ParameterSource

from relay_tornado.cli.access import open_access
from relay_tornado.cli.answers import left_over, onward
from relay_tornado.cli.client import Caller, open_relay
from relay_tornado.cli.conditions import filter_option
from relay_tornado.cli.errors import Failure, unless_seen
from relay_tornado.cli.lookup import check_sendable, find_output
from relay_tornado.cli.options import Read, options_of, relay_options
from relay_tornado.cli.positions import Position, PositionType
from relay_tornado.cli.printing import Document, note, print_json
from relay_tornado.cli.progress import show_progress
from relay_tornado.cli.span import Course, find_span
from relay_tornado.cli.target import SENDING_PARAMETERS, Sending, sending_options
from relay_tornado.errors import RelayError
from relay_tornado.model import counted

if TYPE_CHECKING:
    from relay_tornado.agent.pace import Pace
    from relay_tornado.ops.copying import Progress

_PACE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(x|/s)?")

_SLOWEST: Final = 1e-6
_FASTEST: Final = 1e6
"""The bounds of a factor, as REST has the upper one, and of events per second: an event in eleven days can be waited
for, one in millions of years can't."""

_FULL: Final = 0.5
"""Seconds to wait if the relay accepts no more waiting events: some are done by then."""

_option = options_of("REPLAY")


class PaceType(Read):
    """Reads a pace: `full`, `original`, `2x` (twice as fast as the original), `10/s`."""

    name = "pace"

    def read(self, value: str) -> Pace:
        from relay_tornado.agent.pace import Pace

        if value == "full":
            return Pace()
        if value == "original":
            return Pace(factor=1.0)
        match = _PACE.fullmatch(value.strip())
        if match is None or not _SLOWEST <= float(match[1]) <= _FASTEST:
            bounds = f"from {_SLOWEST:f} to {_FASTEST:.0f}"
            self.fail(f"{value!r} is not full, original, a factor like 2x, or a rate like 10/s, {bounds}")
        return Pace(factor=float(match[1])) if match[2] == "x" else Pace(rate=float(match[1]))


@click.command()
@click.argument("bucket")
@_option(
    "--from",
    "begin",
    type=PositionType(seqs=True),
    required=True,
    help="First event: an id, a time, last:100, earliest.",
)
@_option(
    "--to",
    "end",
    type=PositionType(seqs=True),
    default="latest",
    show_default=True,
    help="Last event, in the same form; at a time: the last event before it.",
)
@_option("--to-url", help="Send the events to this HTTP server, from this machine.")
@_option("--to-output", metavar="OUTPUT", help="Send the events again to this output of the bucket (name or id).")
@_option("--to-consumer", metavar="NAME", help="Redeliver the events to this consumer.")
@_option("--pace", type=PaceType(), default="full", show_default=True, help="original, 2x, 10/s, or full speed.")
@filter_option(_option)
@sending_options(_option, "To a URL: ")
@relay_options
def replay(
    bucket: str,
    begin: Position,
    end: Position,
    to_url: str | None,
    to_output: str | None,
    to_consumer: str | None,
    pace: Pace,
    rules: Document | None,
    data: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Send a range of stored events of BUCKET again, to a URL, an output or a consumer.

    A position is an id, a time (2h ago, 2026-12-31T12:00, unix seconds), last:100, seq:42, earliest or latest.
    """
    given = [each for each in (to_url, to_output, to_consumer) if each]
    if len(given) != 1:
        raise click.UsageError("say where the events go: one of --to-url, --to-output and --to-consumer")
    course: Course | None = None
    try:
        if to_url:
            from relay_tornado.cli.replay_to_url import send_to_url

            sending = Sending(**options)
            shape = sending.shape(to_url)
            with open_relay(data) as relay:
                span = find_span(relay, bucket, begin, end)
            course = Course(span, span.first)
            with open_access(data, "relay replay", [span.bucket["id"]]) as access, show_progress(as_json) as progress:
                send_to_url(access, course, shape, pace, rules, progress, sending)
        else:
            _none_of(SENDING_PARAMETERS)
            with open_relay(data) as relay:
                span = find_span(relay, bucket, begin, end)
                course = Course(span, span.first)
                order = _order(relay, course, to_output, to_consumer, pace, rules)
                with show_progress(as_json) as progress:
                    _by_relay(relay, order, course, pace, progress)
    except KeyboardInterrupt:
        if course is None:
            raise
        course.stopped = True
    except (RelayError, Failure):
        if course is not None and course.passed:
            note(_how_to_go_on(course))
        raise
    _tell(course, as_json)


def _tell(course: Course, as_json: bool) -> None:
    """Prints the result; the exit code says whether everything was done."""
    words = [f"{course.sent} of {counted(course.span.count, 'event')} {course.verb}"]
    words += [f"{getattr(course, name)} {name}" for name in ("refused", "failed", "missing") if getattr(course, name)]
    done = ", ".join(words)
    with unless_seen(f"{done}; {_how_to_go_on(course)}" if course.stopped else done):
        if as_json:
            print_json(course.document)
        else:
            click.echo(done)
    if course.stopped:
        note(_how_to_go_on(course))
        raise click.exceptions.Exit(130)
    if course.failed:
        raise click.exceptions.Exit(1)


def _how_to_go_on(course: Course) -> str:
    if course.next > course.span.last:
        return "stopped, and all was sent"
    return (
        f"stopped after {course.passed} of {course.span.count}: the same command with "
        f"--from seq:{course.next} --to seq:{course.span.last} goes on there"
    )


def _none_of(names: tuple[str, ...]) -> None:
    """Raises UsageError if one of these options is on the command line, where it has no effect."""
    context = click.get_current_context()
    for each in context.command.params:
        if each.name in names and context.get_parameter_source(each.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{each.opts[0]} belongs to --to-url: the relay itself sends to outputs and consumers"
            )


_Order: TypeAlias = Callable[[int, int], Iterator[int]]
"""Makes the relay send the events from one seq to another; yields the first seq that is not done after each request."""


def _order(relay: Caller, course: Course, output: str | None, consumer: str | None, pace: Pace, rules: Any) -> _Order:
    found: Document | None = None if output is None else find_output(course.span.bucket, output)
    if found is not None:
        check_sendable(found)
    if found is not None and found["internal"]:
        if pace.factor is not None:
            raise click.UsageError("an internal output has no pace of its own: --pace full, or a rate like 10/s")
        return _resend(relay, course, found["id"], rules)
    if rules is not None:
        raise click.UsageError("--filter goes with --to-url, and with --to-output for an internal output")
    if found is not None:
        return _replay(relay, course, "output.replay", pace, output=found["id"])
    return _replay(relay, course, "consumer.replay", pace, consumer=consumer)


def _resend(relay: Caller, course: Course, output: str, rules: Any) -> _Order:
    """Sends copies to an internal output, which has no position that could be moved."""

    def order(first: int, last: int) -> Iterator[int]:
        wanted: Document = {"first": first, "last": last, "output": output}
        if rules is not None:
            wanted["filter"] = rules
        while True:
            answer = relay.call("logs.resend_range", bucket=course.span.bucket["id"], **wanted)
            course.sent += len(answer["ids"])
            course.missing += sum(gap["count"] or 0 for gap in answer.get("skipped", ()))
            left = left_over(answer, first)
            if left is None:
                return
            first, wanted["cursor"] = left, answer["next_cursor"]
            yield left
            if answer.get("problem"):
                raise Failure(f"broken off: {answer['problem']}")

    return order


def _replay(relay: Caller, course: Course, command: str, pace: Pace, **to: Any) -> _Order:
    """Makes the relay redeliver the events to a public output or a consumer, at the given pace. While the relay accepts
    no more waiting events, the rest waits here."""
    course.verb = "scheduled again"

    def order(first: int, last: int) -> Iterator[int]:
        wanted: Document = {"bucket": course.span.bucket["id"], "last": last, "speed": pace.factor, **to}
        at: int | None = first
        while at is not None:
            answer = relay.call(command, first=at, **wanted)
            course.sent += answer["scheduled"]
            wanted["anchor"] = answer["anchor"]
            reached, at = at, answer["next"]
            if at is not None:
                yield at
                if answer["full"]:
                    _wait(relay, _FULL)
                else:
                    onward(at, reached)

    return order


def _by_relay(relay: Caller, order: _Order, course: Course, pace: Pace, progress: Progress) -> None:
    """Sends the whole range in order, at once or at a number of events per second."""
    span = course.span
    at_once = span.count if pace.rate is None else max(1, round(pace.rate))
    while course.next <= span.last:
        begun = time.monotonic()
        upto = min(span.last, course.next + at_once - 1)
        for reached in order(course.next, upto):
            course.next = reached
            progress("sending", course.passed, span.count)
        course.next = upto + 1
        progress("sending", course.passed, span.count)
        if pace.rate is not None and course.next <= span.last:
            _wait(relay, max(0.0, begun + at_once / pace.rate - time.monotonic()))


def _wait(relay: Caller, seconds: float) -> None:
    """Waits without holding the data directory, which the command opens itself if no relay runs: a relay that starts
    meanwhile would end."""
    relay.close()
    time.sleep(seconds)
