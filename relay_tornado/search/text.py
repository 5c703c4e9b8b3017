"""The text of an event that is searched, and the meaning of a query: each of its terms occurs in that text.

Case is ignored (Unicode case folding on both sides). A term is also found within a word. JSON may escape characters
that are not ASCII, and case folding does not apply to what the escapes stand for: a term with such characters is also
searched as JSON escapes, in the cases in which it is likely to be written.
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
"""The number of characters of an event's text that are searched, from its beginning."""

MOST_QUERY: Final = 500
"""The most characters of a query."""

_GRAM: Final = 3
_MOST_TERMS: Final = 16
"""The most terms that are looked up in the index."""
_MOST_GRAMS: Final = 12
"""The most trigrams of a term that are looked up. More would only cost time, as results are checked anyway."""

_STEP: Final = 32 * KIB
"""Bytes to decode, or characters to fold, in one step: 1 or 2 ms of work."""

_STRETCH: Final = 256 * KIB
"""Characters to search for a term in one step: 1 or 2 ms of work."""

_SLICE: Final = 0.002
"""Seconds of work after which the event loop gets its turn."""


class Turns:
    """Shares the event loop during work on texts: `give` is called after each step."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    async def give(self) -> None:
        """Yields to the event loop if it has waited for a while."""
        if time.perf_counter() - self._since > _SLICE:
            await asyncio.sleep(0)
            self._since = time.perf_counter()


async def text_of(event: Event, turns: Turns) -> str:
    """Path, query, values of headers and body, case-folded, each on a line of its own. A body that is not UTF-8 is left
    out."""
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
    """Decodes as much of a body as is searched. Raises UnicodeDecodeError if any of the body is not UTF-8."""
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
    """A query: each term has to occur in one of its forms."""

    terms: tuple[tuple[str, ...], ...]

    async def matches(self, text: str, turns: Turns) -> bool:
        """Whether a text, as `text_of` returns it, contains all terms."""
        for forms in self.terms:
            for form in forms:
                if await _has(text, form, turns):
                    break
            else:
                return False
        return True

    def match(self) -> str:
        """The query as an FTS5 expression, which every matching text meets, and some others, too; "" if no term can be
        looked up."""
        wanted: list[str] = []
        for forms in self.terms:
            grams = [_grams(form) for form in forms]
            if all(grams) and len(wanted) < _MOST_TERMS:
                wanted.append(" OR ".join("(" + " AND ".join(each) + ")" for each in grams))
        return " AND ".join(f"({each})" for each in wanted)


def parse_query(text: str) -> Query:
    """Parses a query: terms separated by spaces; a term with spaces is in double quotes. There are no operators. Raises
    Invalid."""
    if len(text) > MOST_QUERY:
        raise Invalid(f"is longer than {MOST_QUERY} characters", "q")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Invalid("holds half a surrogate pair, which no text has", "q") from None
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
    """The text case-folded, with NUL replaced, at which FTS5 would end a text."""
    return text.replace("\0", "\ufffd").casefold()


def _forms(term: str) -> tuple[str, ...]:
    if term.isascii():
        return (_folded(term),)
    cases = (term, term.lower(), term.upper(), term.capitalize(), term.title())
    return tuple(dict.fromkeys((_folded(term), *(json.dumps(each)[1:-1].casefold() for each in cases))))


def _grams(form: str) -> list[str]:
    """Some of the term's trigrams, spread over all of it, quoted for FTS5."""
    grams = [form[start : start + _GRAM] for start in range(len(form) - _GRAM + 1)]
    grams = list(dict.fromkeys(grams))
    if len(grams) > _MOST_GRAMS:
        step = (len(grams) - 1) / (_MOST_GRAMS - 1)
        grams = [grams[round(number * step)] for number in range(_MOST_GRAMS)]
    return ['"' + gram.replace('"', '""') + '"' for gram in grams]
