"""Which copies an event has, by the current outputs and rules of its bucket."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
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
"""The most subjects that are cached, and the most bytes of them."""


class Subjects:
    """A cache of the subjects of recent events, so that each event is parsed once for all rules and filters."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[Event, Subject]] = OrderedDict()
        self._size = 0

    def of(self, event: Event) -> Subject:
        """The subject of this event."""
        found = self._kept.get(id(event))
        if found is not None:
            return found[1]
        subject = Subject(event)
        if event.size <= _SUBJECT_BYTES:
            # The cache holds the event, so no other event can get its id() meanwhile.
            self._kept[id(event)] = event, subject
            self._size += event.size
            while len(self._kept) > _SUBJECTS or self._size > _SUBJECT_BYTES:
                self._size -= self._kept.popitem(last=False)[1][0].size
        return subject


class Goes:
    """Decides which events have a copy for an output. Without an output: those that are not for one output alone.

    `ruled`: it has rules. `perhaps`: an event whose content is gone may have had a copy."""

    __slots__ = ("_number", "_rules", "perhaps")

    def __init__(self, bucket: Bucket, output: Output | None) -> None:
        self._number = None if output is None else output.n
        self.perhaps = output is None or not output.disabled
        self._rules = None if output is None else _rules(bucket, output)

    @property
    def ruled(self) -> bool:
        return self._rules is not None

    def there(self, event: Event, subject: Callable[[Event], Subject] = Subject) -> bool:
        """Whether this event has a copy; `subject` makes what rules look at."""
        return (
            self.perhaps
            and (event.target is None or event.target == self._number)
            and (self._rules is None or event.force or self._rules.matches(subject(event)))
        )


class Outputs:
    """A bucket's outputs through which subscribers get events.

    `plain`: there is no output, so an event without a target is sent itself, once. `ruled`: an output has rules."""

    __slots__ = ("_copies", "plain", "ruled")

    def __init__(self, bucket: Bucket) -> None:
        outputs = sorted(bucket.outputs, key=lambda output: output.n) if bucket.stream else ()
        self.plain = bucket.stream and not bucket.outputs
        self._copies: tuple[tuple[Copy, Goes], ...] = tuple(
            (copy_to(output), Goes(bucket, output)) for output in outputs if output.internal and not output.disabled
        )
        self.ruled = any(goes.ruled for _, goes in self._copies)

    def of(self, event: Event, subjects: Subjects, after: int = 0) -> Sequence[Copy]:
        """An event's copies for outputs above number `after`, in order of n."""
        return [copy for copy, goes in self._copies if copy.n > after and goes.there(event, subjects.of)]


def active(bucket: Bucket, above: int) -> bool:
    """Whether subscribers may get copies for outputs above number `above`."""
    return bucket.stream and any(
        output.n > above and output.internal and not output.disabled for output in bucket.outputs
    )


def _rules(bucket: Bucket, output: Output) -> Rules | None:
    if not output.rules:
        return None
    try:
        return compile_rules(output.rules, accepted=True)
    except Invalid as error:
        # Rules are checked when they are set. If they can't be read, the event is delivered rather than lost.
        _log.error("rules_not_understood", bucket=bucket.name, output=output.name, reason=str(error))
        return None
