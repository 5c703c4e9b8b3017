"""The plan of `relay apply`: the differences between a manifest and the relay, as ordered steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from relay_tornado.cli.manifest import TABLES, DeclaredBucket
from relay_tornado.cli.printing import Document, own_answer, when
from relay_tornado.errors import Invalid
from relay_tornado.wire.destination import masked
from relay_tornado.wire.place import PLACE, compared

Action: TypeAlias = Literal["create", "change", "delete"]
Kind: TypeAlias = Literal["bucket", "input", "output"]

_UNSHOWN: Final = frozenset({"auth", "verify", "rules", "headers", "secret"})
"""Fields that may contain secrets."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change. `name` is a bucket's or an output's name, or an input's id; `fields` describes what is set, or what a
    deletion changes beside.

    `id` is the id of what is changed or deleted, if it exists already.
    """

    action: Action
    kind: Kind
    name: str
    bucket: str
    options: Document
    fields: tuple[str, ...] = ()
    id: str = ""

    def __str__(self) -> str:
        sign = {"create": "+", "change": "~", "delete": "-"}[self.action]
        where = "" if self.kind == "bucket" else f" of {self.bucket}"
        what = f": {', '.join(self.fields)}" if self.fields else ""
        return f"{sign} {self.kind} {self.name}{where}{what}"

    def document(self) -> Document:
        """For --json: without values, which may be secret."""
        where = {"action": self.action, "kind": self.kind, "name": self.name, "bucket": self.bucket}
        return {**where, "fields": sorted(self.options)}


def plan(manifest: list[DeclaredBucket], buckets: list[Document], *, prune: bool) -> list[Step]:
    """The steps in the order in which they can be done: deletions come first, as they free ids and routes.

    `buckets` are all buckets of the relay. Raises Invalid if an output is to be deleted that a declared input names.
    """
    present = {bucket["name"]: bucket for bucket in buckets}
    steps: list[Step] = []
    for declared in manifest:
        steps += _bucket(declared, present.get(declared.name))
    if not prune:
        return steps
    wanted = {declared.name for declared in manifest}
    first = [
        Step("delete", "bucket", name, name, {}, id=bucket["id"])
        for name, bucket in present.items()
        if name not in wanted
    ]
    last: list[Step] = []
    for declared in manifest:
        if declared.name in present:
            first += _pruned_inputs(declared, present[declared.name])
            for step, answering in _pruned_outputs(declared, present[declared.name]):
                (last if answering else first).append(step)
    return first + steps + last


def _bucket(declared: DeclaredBucket, present: Document | None) -> Iterator[Step]:
    name = declared.name
    if present is None:
        yield Step("create", "bucket", name, name, declared.options, tuple(sorted(declared.options)))
    else:
        yield from _change("bucket", name, name, declared.options, present)
    outputs = _by("name", (present or {}).get("outputs", []))
    for each, options in (declared.outputs or {}).items():
        wanted = {**options, "name": each}
        if each in outputs:
            yield from _change("output", each, name, wanted, outputs[each])
        else:
            yield Step("create", "output", each, name, wanted, tuple(sorted(options)))
    inputs = _by("id", (present or {}).get("inputs", []))
    ids = {each: output["id"] for each, output in outputs.items()}
    for each, options in (declared.inputs or {}).items():
        if each in inputs:
            answering = options.get("response_from_output")
            compared = {**options, "response_from_output": ids.get(answering, answering)} if answering else options
            yield from _change("input", each, name, compared, inputs[each])
        else:
            yield Step("create", "input", each, name, {**options, "id": each}, tuple(sorted(options)))


def _pruned_inputs(declared: DeclaredBucket, present: Document) -> Iterator[Step]:
    if declared.inputs is not None:
        for found in present["inputs"]:
            if found["id"] not in declared.inputs:
                yield Step("delete", "input", found["id"], declared.name, {}, id=found["id"])


def _pruned_outputs(declared: DeclaredBucket, present: Document) -> Iterator[tuple[Step, bool]]:
    """Deletions of outputs, each with whether a remaining input gets its answers from it: that is changed first."""
    if declared.outputs is None:
        return
    outputs = _by("name", present["outputs"])
    staying = [each for each in present["inputs"] if declared.inputs is None or each["id"] in declared.inputs]
    changing = declared.inputs or {}
    for found in present["outputs"]:
        if found["name"] not in declared.outputs or found is not outputs[found["name"]]:
            _refuse_named(declared, {found["id"], found["name"]} - declared.outputs.keys())
            asking = [each for each in staying if each["response_from_output"] == found["id"]]
            left = [each["name"] for each in asking if "response_from_output" not in changing.get(each["id"], {})]
            fields = (f"the {own_answer(left)}",) if left else ()
            yield Step("delete", "output", found["name"], declared.name, {}, fields, found["id"]), bool(asking)


def _refuse_named(declared: DeclaredBucket, names: set[str]) -> None:
    """Raises Invalid if a declared input is to get its answers from an output of one of these names."""
    for each, options in (declared.inputs or {}).items():
        wanted = options.get("response_from_output")
        if wanted in names:
            raise Invalid(
                f"the file does not declare the output {wanted!r} of {declared.name}, so --prune would delete it: "
                "declare it, too, or name another one",
                f"input {each} of {declared.name}: response_from_output",
            )


def _by(key: str, documents: list[Document]) -> dict[str, Document]:
    """The documents by a field; the first of several with the same value."""
    return {each[key]: each for each in reversed(documents)}


def _change(kind: Kind, name: str, bucket: str, options: Document, present: Document) -> Iterator[Step]:
    changed = {key: value for key, value in options.items() if not _is(key, value, present.get(key))}
    if changed:
        fields = tuple(_words(key, present.get(key), value) for key, value in sorted(changed.items()))
        yield Step("change", kind, name, bucket, changed, fields, present["id"])


def _is(key: str, wanted: Any, present: Any) -> bool:
    """Whether a field has the wanted value, given how the relay normalizes it."""
    if key in TABLES and isinstance(wanted, Mapping) and isinstance(present, Mapping):
        if key == "auth" and wanted.get("type") == "":
            wanted = {**wanted, "type": "none"}
        if key == "dedupe" and str(wanted.get("header")).lower() == "auto":
            wanted = {**wanted, "header": "auto"}
        return all(present.get(name) == value for name, value in wanted.items())
    if key == "headers":
        return bool(
            {name: [each.strip(" \t") for each in values] for name, values in wanted.items() if values} == present
        )
    if key == "expires_at" and wanted is not None and present is not None:
        return int(wanted) == int(present)
    if key == "status_code":
        return bool((wanted or 200) == present)
    if key in PLACE:
        return compared(key, wanted) == compared(key, present)
    return bool(wanted == present)


def _words(key: str, before: Any, after: Any) -> str:
    if key == "expires_at":
        return f"{key} {when(before, seconds=True)} → {when(after, seconds=True)}"
    plain = (str, int, float, bool, type(None))
    if key in _UNSHOWN or not isinstance(before, plain) or not isinstance(after, plain):
        return key
    if key == "destination":
        before, after = (masked(str(each or "")) for each in (before, after))
        if before == after:
            return key
    old, new = (_short(each) for each in (before, after))
    return f"{key} {old} → {new}"


def _short(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, float):
        text = f"{value:.15g}"
    else:
        text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
