"""What is searched of an event, and what a query means: each of its terms stands somewhere in that text.

Case is ignored (Unicode's case folding, on both sides). A term is found wherever it stands, in the middle of a word,
too. JSON writes some characters as escapes, whose case is not that of the text: a term that has such characters is
looked for in that form as well, in the cases in which it is likely to be written.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from relay_tornado.errors import Invalid
from relay_tornado.model import KIB, MIB, Event
from relay_tornado.wire import headers

SEARCHED: Final = 1 * MIB
"""Characters of an event's text that are searched; what follows is not."""

MOST_QUERY: Final = 500
"""Characters of a query."""

_GRAM: Final = 3
_MOST_TERMS: Final = 16
"""Terms that the index is asked for."""
_MOST_GRAMS: Final = 12
"""Parts of one term that the index is asked for: more would only cost time, for what is found is looked at anyway."""

_STEP: Final = 32 * KIB
"""Bytes that are decoded, or characters that are folded, in one step: a millisecond or two of work."""

_STRETCH: Final = 256 * KIB
"""Characters in which a term is looked for in one step: as much."""

_SLICE: Final = 0.002
"""Seconds after which others have their turn."""


class Turns:
    """Whoever works on texts asks after each step whether it is others' turn."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    async def give(self) -> None:
        """Lets the loop go round where it has waited for a while."""
        if time.perf_counter() - self._since > _SLICE:
            await asyncio.sleep(0)
            self._since = time.perf_counter()


async def text_of(event: Event, turns: Turns) -> str:
    """Path, query, values of headers and body, in folded case, each on a line of its own. A body that is not UTF-8 is
    no text."""
    parts = [headers.decode(event.path), headers.decode(event.query)]
    parts += [headers.decode(value) for _, value in headers.parse(event.headers)]
    with suppress(UnicodeDecodeError):
        parts.append(await _decoded(event.body, turns))
    text = "\n".join(parts)[:SEARCHED]
    folded = []
    for start in range(0, len(text), _STEP):
        folded.append(_folded(text[start : start + _STEP]))
        await turns.give()
    return "".join(folded)


async def _decoded(body: bytes, turns: Turns) -> str:
    """As much of a body as is searched. Raises UnicodeDecodeError where any of it is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    pieces: list[str] = []
    size = 0
    for start in range(0, len(body), _STEP):
        piece = decoder.decode(body[start : start + _STEP], start + _STEP >= len(body))
        if size < SEARCHED:
            pieces.append(piece)
            size += len(piece)
        await turns.give()
    return "".join(pieces)


@dataclass(frozen=True, slots=True)
class Query:
    """Terms that all have to be there; each is a set of forms, one of which is enough."""

    terms: tuple[tuple[str, ...], ...]

    async def matches(self, text: str, turns: Turns) -> bool:
        """Whether a text, as `text_of` gives it, has them all."""
        for forms in self.terms:
            for form in forms:
                if await _has(text, form, turns):
                    break
            else:
                return False
        return True

    def match(self) -> str:
        """The same for FTS5, where some terms can be looked up in it: an expression that every matching text fits, and
        some others; "" where none can."""
        wanted: list[str] = []
        for forms in self.terms:
            grams = [_grams(form) for form in forms]
            if all(grams) and len(wanted) < _MOST_TERMS:
                wanted.append(" OR ".join("(" + " AND ".join(each) + ")" for each in grams))
        return " AND ".join(f"({each})" for each in wanted)


def parse_query(text: str) -> Query:
    """A query as people write it: terms with blanks between, a term with blanks in it between double quotes. Nothing
    else has a meaning. Raises Invalid."""
    if len(text) > MOST_QUERY:
        raise Invalid(f"is longer than {MOST_QUERY} characters", "q")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Invalid("holds what is no text", "q") from None
    terms = []
    for index, part in enumerate(text.split('"')):
        terms += [part] if index % 2 and part.strip() else part.split()
    return Query(tuple(dict.fromkeys(_forms(term) for term in terms)))


async def _has(text: str, form: str, turns: Turns) -> bool:
    for start in range(0, len(text), _STRETCH):
        await turns.give()
        if text.find(form, start, start + _STRETCH + len(form) - 1) >= 0:
            return True
    return False


def _folded(text: str) -> str:
    """Without case; and with something else in place of NUL, where FTS5 would end a text."""
    return text.replace("\0", "\ufffd").casefold()


def _forms(term: str) -> tuple[str, ...]:
    if term.isascii():
        return (_folded(term),)
    cases = (term, term.lower(), term.upper(), term.capitalize(), term.title())
    return tuple(dict.fromkeys((_folded(term), *(json.dumps(each)[1:-1].casefold() for each in cases))))


def _grams(form: str) -> list[str]:
    """Some of the term's threes of characters, quoted for FTS5, spread over all of it."""
    grams = [form[start : start + _GRAM] for start in range(len(form) - _GRAM + 1)]
    grams = list(dict.fromkeys(grams))
    if len(grams) > _MOST_GRAMS:
        step = (len(grams) - 1) / (_MOST_GRAMS - 1)
        grams = [grams[round(number * step)] for number in range(_MOST_GRAMS)]
    return ['"' + gram.replace('"', '""') + '"' for gram in grams]
