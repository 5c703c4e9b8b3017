"""JSON bodies of requests, read strictly, so that the result can be stored, shown and traversed safely."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from typing import Any, Final

import msgspec

from relay_tornado.errors import Invalid, TooLarge, WrongType
from relay_tornado.wire.fields import replace_halves

MAX_DEPTH: Final = 72
"""Maximum nesting of objects and lists: rules of 32 nodes, each within another, have 65 levels, and 68 in a bucket."""

MAX_PARTS: Final = 50_000
"""Maximum number of objects and lists in a body: each takes many times its bytes, and nothing else runs meanwhile."""

MAX_VALUES: Final = 600_000
"""Maximum number of values in a body, since reading them takes time."""

MAX_FIELDS: Final = 10_000
"""Maximum number of fields in one object of a body, since those that a form does not know take time. Of these, hardly
so many would be kept (`fields.MAX_EXTRA`). A whole bucket, as stock clients send it back, may have more."""

_LEAST, _MOST = -(2**63), 2**63 - 1
_TEXT: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_HALF: Final = re.compile(rb"\\(?:(u[dD][89abAB][0-9a-fA-F]{2})(?=[^\\]|\\[^u])|.)", re.DOTALL)
"""An escape in a text. Its group is the first half of a surrogate pair whose second half does not follow."""


def parse(body: bytes, content_type: str, content_encoding: str = "", *, cut: bool = False) -> dict[str, Any]:
    """The JSON object in a body. Clients may omit the Content-Type, or send another one, and may send a BOM. With
    `cut`, its texts may have been cut within a character: half a surrogate pair is read as U+FFFD.

    Only in such a body an object may have any number of fields.

    Raises Invalid, and WrongType if the body does not look like JSON and one of the headers says that it is none.
    """
    body = body.removeprefix(BOM_UTF8)
    try:
        _check_number(body)
        document = _decode_cut(body) if cut else msgspec.json.decode(body)
        _make_plain(document, MAX_DEPTH, MAX_VALUES if cut else MAX_FIELDS)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError, Invalid) as error:
        if not body.lstrip().startswith((b"{", b"[")):
            if content_encoding.strip().lower() not in ("", "identity"):
                said = f"the body has Content-Encoding: {content_encoding:.80}, which is not read here"
                raise WrongType(f"{said}: send it uncompressed") from None
            if _names_another_form(content_type):
                raise WrongType("the body must be JSON: send it with Content-Type: application/json") from None
        if isinstance(error, Invalid):
            raise
        if not body.strip():
            raise Invalid("the body is empty: send a JSON object") from None
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else _reason(error, body)
        raise Invalid(f"the body is no JSON: {reason}") from None
    if not isinstance(document, dict):
        raise Invalid("the body must be a JSON object: { … }")
    return document


def _decode_cut(body: bytes) -> Any:
    """What is in a body with halves of surrogate pairs. Raises what msgspec raises, and RecursionError."""
    try:
        return msgspec.json.decode(body)
    except msgspec.MsgspecError:
        try:
            text = json.dumps(json.loads(body), ensure_ascii=False)
        except ValueError:
            text = ""
        whole = replace_halves(text)
        if whole == text:
            raise
    return msgspec.json.decode(whole)


def check_size(size: int, most: int) -> None:
    """Raises TooLarge if a body has more than `most` bytes."""
    if size > most:
        raise TooLarge(f"the body is over {most} bytes, which is all that this path takes: send less")


def _check_number(body: bytes) -> None:
    """Raises Invalid if a body has too many parts or values."""
    # A text has one or two quotation marks without a backslash before them.
    values = (body.count(b'"') - body.count(b'\\"')) // 2
    if values <= MAX_VALUES and (_parts(body) > MAX_PARTS or body.count(b",") > MAX_VALUES):
        body = _TEXT.sub(b"", body)
        if _parts(body) > MAX_PARTS:
            raise Invalid(f"the body has too many objects and lists: at most {MAX_PARTS} are read")
        values = body.count(b",")
    if values > MAX_VALUES:
        raise Invalid(f"the body has too many values: at most {MAX_VALUES} are read; send bytes as base64")


def _parts(body: bytes) -> int:
    return body.count(b"{") + body.count(b"[")


def _make_plain(value: Any, depth: int, most: int) -> None:
    """Changes a value in place so that the registry's encoders and any client can read it: integers that do not fit
    into 64 bits become floats, as in most JSON parsers. Raises Invalid if it is nested deeper than `depth`, or an
    object in it has more than `most` fields, and OverflowError."""
    if not isinstance(value, dict | list):
        return
    if depth == 0:
        raise Invalid(f"the body is nested too deeply: at most {MAX_DEPTH} levels are read")
    if isinstance(value, dict) and len(value) > most:
        raise Invalid(f"an object in the body has too many fields: at most {most} are read")
    for place, each in value.items() if isinstance(value, dict) else enumerate(value):
        kind = type(each)
        if kind is dict or kind is list:
            _make_plain(each, depth - 1, most)
        elif kind is int and not _LEAST <= each <= _MOST:
            value[place] = float(each)


def _names_another_form(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind not in ("", "application/json") and not kind.endswith("+json")


def _reason(error: Exception, body: bytes) -> str:
    """Why the body can't be read, and where: bytes are counted from 0."""
    try:
        body.decode()
    except UnicodeDecodeError as undecoded:  # msgspec counts from the beginning of a string
        return f"it is not UTF-8 (byte {undecoded.start})"
    if str(error) == "Input data was truncated":
        # msgspec says that, too, if fewer bytes than the second half takes follow the first.
        half = next((each for each in _HALF.finditer(body) if each[1]), None)
        if half is not None:
            return f"{half[0].decode()} is half of a surrogate pair (byte {half.start()})"
        return f"it ends too early (byte {len(body)})"
    text = str(error).removeprefix("JSON is malformed: ")
    return text[:1].lower() + text[1:]
