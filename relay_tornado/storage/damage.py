"""Malformed data in a file: how SQLite and Python's module report it, and how it is reported further."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec

T = TypeVar("T")

Finite: TypeAlias = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""For times and spans. Damage can make one infinite, which is not a number of seconds."""

MALFORMED_TEXT: Final = "a text in it is malformed"

_UNDECODED = "Could not decode to UTF-8"
_NO_JSON = "JSON cannot hold BLOB values"
_AS_IT_IS = (bytes,)
"""Without this, msgspec takes a text for bytes in base64."""


def malformed(message: str) -> sqlite3.DatabaseError:
    """An error like SQLite's own, for data that only Python finds malformed."""
    error = sqlite3.DatabaseError(message)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def sound(row: Any, types: type[T]) -> T:
    """The row, if its values have these types. Raises sqlite3.DatabaseError if not: damage can turn a number into a
    text or NULL."""
    try:
        return msgspec.convert(row, types, builtin_types=_AS_IT_IS)
    except msgspec.ValidationError as error:
        raise malformed(str(error)) from None


def code_of(error: BaseException | None) -> int:
    """SQLite's primary error code."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether a page of the file, or a value in it, is malformed. Data elsewhere can then still be read."""
    return code_of(error) == sqlite3.SQLITE_CORRUPT or str(error).startswith((_UNDECODED, _NO_JSON))


def quotes_a_text(error: BaseException) -> bool:
    """Whether the error is Python's own about a text that it can't decode. Its message is the whole text, which may be
    a record with secrets. If SQLite's message quotes such a text of a schema, there is only the decoder's error."""
    undecoded = isinstance(error, sqlite3.OperationalError) and str(error).startswith(_UNDECODED)
    return undecoded or isinstance(error, UnicodeDecodeError)


@contextmanager
def unquoted() -> Iterator[None]:
    """Raises sqlite3.DatabaseError instead of an error that quotes a text."""
    try:
        yield
    except (sqlite3.OperationalError, UnicodeDecodeError) as error:
        if not quotes_a_text(error):
            raise
        raise malformed(MALFORMED_TEXT) from None


def decode(text: bytes) -> str:
    """The connection's `text_factory`. Raises sqlite3.DatabaseError."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise malformed(MALFORMED_TEXT) from None
