"""Reads and checks the file of `relay apply`, which declares buckets, inputs and outputs.

Sizes and times may have units ("1GiB", "7d"), "none" switches a limit or a part off, and a secret may be
`{ env = "NAME" }` or `{ file = "PATH" }` instead of the secret itself.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

from relay_tornado.cli.errors import text_of
from relay_tornado.cli.options import NONE, date_time
from relay_tornado.errors import Invalid
from relay_tornado.rules import compile_rules
from relay_tornado.settings import parse_duration, parse_size
from relay_tornado.wire.fields import Document, StockFields, load
from relay_tornado.wire.rest import AuthFields, BucketFields, InputFields, OutputFields

_BUCKET, _INPUT, _OUTPUT = (
    BucketFields(exclude=("name",)),
    InputFields(exclude=("id",)),
    OutputFields(exclude=("name",)),
)
"""Without what the names of the tables say."""

_WORDS: Final[Mapping[tuple[str, ...], Callable[[str], float]]] = {
    ("retention", "max_age"): parse_duration,
    ("retention", "max_bytes"): parse_size,
    ("retention", "hard_max_bytes"): parse_size,
    ("dedupe", "window"): parse_duration,
    ("rate_limit", "interval"): parse_duration,
    ("timeout",): parse_duration,
    ("max_body",): parse_size,
}
"""Numbers that may have units."""
TABLES: Final = frozenset({"auth", "retention", "dedupe", "rate_limit", "verify"})
"""Fields that are tables; parts that are absent stay as they are."""
_OFF: Final = frozenset(
    {
        *(("retention", name) for name in ("max_age", "max_events", "max_bytes", "hard_max_bytes")),
        *(
            (name,)
            for name in ("dedupe", "expires_at", "max_body", "rate_limit", "verify", "rules", "throttle", "durability")
        ),
    }
)
"""The fields that "none" switches off."""
_SECRET: Final = frozenset({("auth", "password"), ("auth", "token"), ("verify", "secrets"), ("secret",)})


@dataclass(frozen=True, slots=True)
class DeclaredBucket:
    """One bucket of the file. `inputs` (by id) and `outputs` (by name) are None if the file does not mention them."""

    name: str
    options: Document
    inputs: dict[str, Document] | None = None
    outputs: dict[str, Document] | None = None


def read_manifest(path: Path) -> list[DeclaredBucket]:
    """The buckets that the file declares, in its order. Raises Invalid that names the line or the key."""
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise Invalid(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Invalid(f"{path} is not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Invalid(f"{path}: {str(error)[:1].lower()}{str(error)[1:]}") from None
    try:
        return _manifest(document, path.parent)
    except Invalid as error:
        raise Invalid(f"{path}: {error}") from None


def _manifest(document: Document, folder: Path) -> list[DeclaredBucket]:
    for name in document:
        if name != "buckets":
            raise Invalid("there is no such key: everything stands under [buckets.NAME]", name)
    buckets = [_bucket(name, value, folder) for name, value in _table(document, "buckets", "").items()]
    owners: dict[str, str] = {}
    for bucket in buckets:
        for each in bucket.inputs or {}:
            first = owners.setdefault(each, bucket.name)
            if first != bucket.name:
                key = f"buckets.{_quoted(bucket.name)}.inputs.{_quoted(each)}"
                raise Invalid(f"the id is declared of the bucket {first!r} already", key)
    return buckets


def _bucket(name: str, value: Any, folder: Path) -> DeclaredBucket:
    key = f"buckets.{_quoted(name)}"
    if not isinstance(value, dict):
        raise Invalid(f"must be a table: [{key}]", key)
    if "name" in value:
        raise Invalid("leave it out: a bucket is named by its table, and is not renamed", f"{key}.name")
    for part, own in (("input", "ID"), ("output", "NAME")):
        if part in value:
            raise Invalid(f"there is no such table: {part}s are declared as [{key}.{part}s.{own}]", f"{key}.{part}")
    parts: dict[str, dict[str, Document] | None] = {"inputs": None, "outputs": None}
    for part, schema, own in (("inputs", _INPUT, "id"), ("outputs", _OUTPUT, "name")):
        if part not in value:
            continue
        parts[part] = found = {}
        for each, item in _table(value, part, key).items():
            where = f"{key}.{part}.{_quoted(each)}"
            if isinstance(item, dict) and own in item:
                raise Invalid(f"leave it out: the table's own name is the {own}", f"{where}.{own}")
            found[each] = _options(schema, item, where, folder)
            if found[each].get("name") == "":
                # A new input without a name gets the default name; an existing one can't be changed to "".
                raise Invalid("is empty: give the input a name, or leave it out", f"{where}.name")
    options = {each: item for each, item in value.items() if each not in parts}
    return DeclaredBucket(name, _options(_BUCKET, options, key, folder), parts["inputs"], parts["outputs"])


def _options(schema: StockFields, value: Any, key: str, folder: Path) -> Document:
    if not isinstance(value, dict):
        raise Invalid(f"must be a table: [{key}]", key)
    _refuse_read_only(value, schema.ECHOED, key)
    if isinstance(value.get("auth"), dict):
        _refuse_read_only(value["auth"], AuthFields.ECHOED, f"{key}.auth")
    options = {name: _plain(item, (name,), key, folder) for name, item in value.items()}
    try:
        load(schema, options)
        if options.get("rules") is not None:
            # What they cost is checked by the rehearsal, if they are changed: an earlier version had no such limit.
            compile_rules(options["rules"], accepted=True)
    except Invalid as error:
        error.problem = error.problem.replace("must be a JSON object", "must be a table: { … }")
        raise error.within(key) from None
    return options


def _refuse_read_only(table: Document, names: frozenset[str], key: str) -> None:
    """Raises Invalid for a key that clients send back but can't set: it would be a change each time."""
    for name in table:
        if name in names:
            raise Invalid("can't be set: leave it out", f"{key}.{name}")


def _plain(value: Any, path: tuple[str, ...], key: str, folder: Path) -> Any:
    """A value in the form of the REST interface."""
    if path in _SECRET:
        if isinstance(value, list):
            return [_secret(each, path, key, folder) for each in value]
        return _secret(value, path, key, folder)
    if path in _OFF and value == NONE.value:
        return None
    if path == ("expires_at",) and isinstance(value, date):
        return date_time(value.isoformat())
    if isinstance(value, str) and path in _WORDS:
        try:
            return _WORDS[path](value)
        except Invalid as error:
            raise error.within(f"{key}.{'.'.join(path)}") from None
    if isinstance(value, dict) and len(path) == 1 and path[0] in TABLES:
        return {name: _plain(item, (*path, name), key, folder) for name, item in value.items()}
    if path == ("headers",) and isinstance(value, dict):
        return {name: [item] if isinstance(item, str) else item for name, item in value.items()}
    return value


def _secret(value: Any, path: tuple[str, ...], key: str, folder: Path) -> Any:
    if not isinstance(value, dict):
        return value
    where = f"{key}.{'.'.join(path)}"
    if set(value) == {"env"} and isinstance(value["env"], str):
        if value["env"] not in os.environ:
            raise Invalid(f"the variable {value['env']} is not set", where)
        return os.environ[value["env"]]
    if set(value) == {"file"} and isinstance(value["file"], str):
        try:
            return text_of(value["file"], (folder / value["file"]).read_bytes).removesuffix("\n").removesuffix("\r")
        except ValueError as error:
            raise Invalid(str(error), where) from None
    raise Invalid('must be a text, { env = "NAME" } or { file = "PATH" }', where)


def _table(document: Document, name: str, key: str) -> Document:
    value = document.get(name, {})
    where = f"{key}.{name}" if key else name
    if not isinstance(value, dict):
        raise Invalid(f"must be a table: [{where}.NAME]", where)
    return value


def _quoted(name: str) -> str:
    """A key as it is written in a table header of TOML."""
    plain = name and all(each.isascii() and (each.isalnum() or each in "-_") for each in name)
    return name if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
