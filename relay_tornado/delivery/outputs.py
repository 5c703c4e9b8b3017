"""Which copies of an event go through connected clients, by the outputs and rules of its bucket as they are now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import structlog

from relay_tornado.errors import Invalid
from relay_tornado.model import MIB, Bucket, Event, Output
from relay_tornado.rules import Rules, compile_rules
from relay_tornado.subject import Subject
from relay_tornado.wire.frames import Copy, copy_to

_log = structlog.get_logger(__name__)

_SUBJECTS: Final = 16
_SUBJECT_BYTES: Final = 4 * MIB
"""How many events are kept as rules have read them, and how many bytes of them."""


class Subjects:
    """The events that rules looked at last, so that each is parsed once for every rule and every filter."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[Event, Subject]] = OrderedDict()
        self._size = 0

    def of(self, event: Event) -> Subject:
        """The subject that this event is."""
        found = self._kept.get(id(event))
        if found is not None:
            return found[1]
        subject = Subject(event)
        if event.size <= _SUBJECT_BYTES:
            # What is kept holds the event, so no other can get its id meanwhile.
            self._kept[id(event)] = event, subject
            self._size += event.size
            while len(self._kept) > _SUBJECTS or self._size > _SUBJECT_BYTES:
                self._size -= self._kept.popitem(last=False)[1][0].size
        return subject


class Outputs:
    """A bucket's outputs, as far as its subscribers get something through them.

    `plain`: it has none, so that each event goes out once. `ruled`: some output has rules."""

    __slots__ = ("_copies", "plain", "ruled")

    def __init__(self, bucket: Bucket) -> None:
        outputs = sorted(bucket.outputs, key=lambda output: output.n) if bucket.stream else ()
        self.plain = bucket.stream and not bucket.outputs
        self._copies: tuple[tuple[Copy, Rules | None], ...] = tuple(
            (copy_to(output), _rules(bucket, output)) for output in outputs if output.internal and not output.disabled
        )
        self.ruled = any(rules is not None for _, rules in self._copies)

    def of(self, event: Event, subjects: Subjects, after: int) -> Sequence[Copy | None]:
        """An event's copies for outputs above number `after`, in order of n; None is the one that goes to no output."""
        if self.plain and event.target is None:
            return () if after else (None,)
        return [
            copy
            for copy, rules in self._copies
            if copy.n > after
            and (event.target is None or copy.n == event.target)
            and (rules is None or event.force or rules.matches(subjects.of(event)))
        ]


def active(bucket: Bucket, above: int = 0) -> bool:
    """Whether subscribers may get copies for outputs above this number."""
    return bucket.stream and any(
        output.n > above and output.internal and not output.disabled for output in bucket.outputs
    )


def _rules(bucket: Bucket, output: Output) -> Rules | None:
    if not output.rules:
        return None
    try:
        return compile_rules(output.rules)
    except Invalid as error:
        # They were checked when they were given. An event is delivered rather than lost.
        _log.error("rules_not_understood", bucket=bucket.name, output=output.name, reason=str(error))
        return None
