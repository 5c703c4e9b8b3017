"""The regular expressions of rules: what those of one document may cost to compile, and the memory of all of them.

RE2 compiles a pattern to a program, and keeps the states that its searches have met, up to a limit. A hostile pattern
fills that with one event. So compiled patterns are not kept by the rules that use them: the ones used last are here,
for all rules together, and any other is compiled again when it is searched for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

import re2  # type: ignore[import-untyped]

from relay_tornado.errors import Invalid
from relay_tornado.model import KIB, MIB

MAX_PATTERN: Final = 1024
"""Bytes of a regular expression."""
MAX_INSTRUCTIONS: Final = 60_000
"""Instructions of all patterns of a document, slightly more than one pattern can have. Compiling them takes up to
50 ms, and nothing else runs meanwhile."""
MAX_CLASSES: Final = 100
r"""Unicode classes (`\pL`) in all patterns of a document: each takes up to 0.1 ms, even if the program stays small."""

MEMORY: Final = 128 * MIB
"""Bytes that all compiled patterns may take."""

_LARGE: Final = 1 * MIB
_LIMITS: Final = ((50, 64 * KIB), (400, 256 * KIB))
"""Instructions up to which a pattern gets a smaller limit, and the limit in bytes. RE2 searches up to 400 times as
slowly if some twenty of its states don't fit: each takes some bytes for each instruction, and for each character that
the pattern tells from others."""

Search: TypeAlias = Callable[[bytes, int, int], object | None]


class Compiled(NamedTuple):
    """A pattern's search function, its number of instructions, and the bytes that it may take."""

    search: Search
    size: int
    memory: int


class Patterns:
    """The compiled patterns that were used last, up to `most` bytes."""

    def __init__(self, most: int = MEMORY) -> None:
        self._most = most
        self._compiled: OrderedDict[bytes, Compiled] = OrderedDict()
        self.memory = 0
        """Bytes that the kept patterns may take."""

    def get(self, pattern: bytes) -> Compiled:
        """The compiled pattern. Raises re2.error."""
        found = self._compiled.get(pattern)
        if found is not None:
            self._compiled.move_to_end(pattern)
            return found
        made = self._compiled[pattern] = _compile(pattern)
        self.memory += made.memory
        while self.memory > self._most and len(self._compiled) > 1:
            self.memory -= self._compiled.popitem(last=False)[1].memory
        return made


PATTERNS: Final = Patterns()
"""Those of all rules."""


class Cost:
    """What the patterns of one document have cost so far; not `limited` if the document was accepted before."""

    def __init__(self, limited: bool = True) -> None:
        self._limited = limited
        self._instructions = 0
        self._classes = 0

    def compile(self, pattern: bytes, path: str) -> Compiled:
        """A pattern of the document, compiled; `path` is its name in errors. Raises Invalid."""
        self._classes += pattern.count(b"\\p") + pattern.count(b"\\P")
        if self._limited and self._classes > MAX_CLASSES:
            raise Invalid(f"all patterns together have over {MAX_CLASSES} classes like \\pL; use fewer", path)
        try:
            made = PATTERNS.get(pattern)
        except re2.error as error:
            why = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
            raise Invalid(
                f"{why}. The syntax is that of RE2, as in Go: it has no look-ahead, no look-behind and no"
                " back-references",
                path,
            ) from None
        self._instructions += made.size
        if self._limited and self._instructions > MAX_INSTRUCTIONS:
            raise Invalid(
                f"all patterns together compile to over {MAX_INSTRUCTIONS} instructions; use smaller ones, with lower"
                " counts in braces",
                path,
            )
        return made


def _compile(pattern: bytes) -> Compiled:
    compiled = re2.compile(pattern, _options(_LARGE))
    for most, memory in _LIMITS:
        if compiled.programsize <= most:
            compiled = re2.compile(pattern, _options(memory))
            return Compiled(compiled.search, compiled.programsize, memory)
    return Compiled(compiled.search, compiled.programsize, _LARGE)


def _options(memory: int) -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = memory
    return options
