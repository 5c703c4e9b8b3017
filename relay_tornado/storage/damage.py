"""What is malformed in a file: how SQLite and Python's module tell it, and how it is told further."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec

T = TypeVar("T")

Finite: TypeAlias = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""For times and spans. Damage makes an infinite one of them, which is no number of seconds."""

MALFORMED_TEXT: Final = "a text in it is malformed"

_UNDECODED = "Could not decode to UTF-8"
_NO_JSON = "JSON cannot hold BLOB values"
_AS_IT_IS = (bytes,)
"""Otherwise msgspec takes a text for bytes in base64."""


def malformed(message: str) -> sqlite3.DatabaseError:
    """An error as SQLite's own, for what only Python finds malformed."""
    error = sqlite3.DatabaseError(message)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def sound(row: Any, types: type[T]) -> T:
    """What was read, where it is of these types. Raises sqlite3.DatabaseError where it is not: damage makes a number a
    text, or nothing."""
    try:
        return msgspec.convert(row, types, builtin_types=_AS_IT_IS)
    except msgspec.ValidationError as error:
        raise malformed(str(error)) from None


def code_of(error: BaseException | None) -> int:
    """SQLite's primary error code."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether what was read is malformed, a page of the file or a value in it: what lies elsewhere can still be
    read."""
    return code_of(error) == sqlite3.SQLITE_CORRUPT or str(error).startswith((_UNDECODED, _NO_JSON))


def quotes_a_text(error: BaseException) -> bool:
    """Whether it is Python's own about a text that it can't decode: its message is all of that, which may be a record
    with secrets. Where SQLite's message quotes such a text, of a schema, there is only the decoder's error."""
    undecoded = isinstance(error, sqlite3.OperationalError) and str(error).startswith(_UNDECODED)
    return undecoded or isinstance(error, UnicodeDecodeError)


@contextmanager
def unquoted() -> Iterator[None]:
    """Raises sqlite3.DatabaseError for such an error."""
    try:
        yield
    except (sqlite3.OperationalError, UnicodeDecodeError) as error:
        if not quotes_a_text(error):
            raise
        raise malformed(MALFORMED_TEXT) from None


def decode(text: bytes) -> str:
    """For `text_factory`. Raises sqlite3.DatabaseError."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise malformed(MALFORMED_TEXT) from None
