"""The names in the API's description: of operations, of their groups, and of types. Generated clients have them."""

from __future__ import annotations

from typing import Any, Final

from relay_tornado.wire.fields import Document

_BUCKET: Final = "/v1/buckets/{bucket}"
_CONSUMER: Final = f"{_BUCKET}/consumers/{{consumer}}"
_OUTPUT: Final = f"{_BUCKET}/outputs/{{output}}"

_GROUPS: Final[dict[str, dict[tuple[str, str], str]]] = {
    "Buckets": {
        ("GET", "/v1/buckets"): "listBuckets",
        ("POST", "/v1/buckets"): "createBucket",
        ("GET", _BUCKET): "getBucket",
        ("PUT", _BUCKET): "updateBucket",
        ("DELETE", _BUCKET): "deleteBucket",
        ("POST", "/v1/bins"): "createBin",
    },
    "Inputs": {
        ("POST", f"{_BUCKET}/inputs"): "createInput",
        ("PUT", f"{_BUCKET}/inputs/{{input}}"): "updateInput",
        ("DELETE", f"{_BUCKET}/inputs/{{input}}"): "deleteInput",
    },
    "Outputs": {
        ("POST", f"{_BUCKET}/outputs"): "createOutput",
        ("PUT", _OUTPUT): "updateOutput",
        ("DELETE", _OUTPUT): "deleteOutput",
        ("PUT", f"{_OUTPUT}/rules"): "setOutputRules",
        ("DELETE", f"{_OUTPUT}/rules"): "deleteOutputRules",
        ("GET", f"{_OUTPUT}/position"): "getOutputPosition",
        ("POST", f"{_OUTPUT}/seek"): "seekOutput",
        ("POST", f"{_OUTPUT}/replay"): "replayOutput",
        ("GET", f"{_OUTPUT}/dead"): "listOutputDeadLetters",
        ("POST", f"{_OUTPUT}/dead"): "giveUpOutputEvent",
        ("DELETE", f"{_OUTPUT}/dead"): "forgetOutputDeadLetters",
        ("POST", f"{_OUTPUT}/dead/resend"): "resendOutputDeadLetters",
    },
    "Consumers": {
        ("GET", f"{_BUCKET}/consumers"): "listConsumers",
        ("GET", _CONSUMER): "getConsumer",
        ("DELETE", _CONSUMER): "deleteConsumer",
        ("POST", f"{_CONSUMER}/seek"): "seekConsumer",
        ("POST", f"{_CONSUMER}/replay"): "replayConsumer",
        ("GET", f"{_CONSUMER}/dead"): "listConsumerDeadLetters",
        ("POST", f"{_CONSUMER}/dead"): "giveUpConsumerEvent",
        ("DELETE", f"{_CONSUMER}/dead"): "forgetConsumerDeadLetters",
        ("POST", f"{_CONSUMER}/dead/resend"): "resendConsumerDeadLetters",
        ("GET", f"{_BUCKET}/dead"): "listDeadLetters",
    },
    "Logs": {
        ("GET", "/v1/logs"): "listLogs",
        ("GET", "/v1/logs/{log}"): "getLog",
        ("GET", f"{_BUCKET}/logs/{{log}}"): "getBucketLog",
        ("GET", "/v1/logs/{log}/body"): "getLogBody",
        ("PUT", "/v1/logs/{log}"): "answerLog",
        ("POST", "/v1/logs/{log}/action"): "resendLog",
        ("POST", "/v1/logs/{log}/send"): "sendLog",
        ("POST", f"{_BUCKET}/resend"): "resendLogs",
        ("GET", "/v1/search"): "searchLogs",
        ("GET", "/v1/events"): "pollEvents",
        ("POST", f"{_BUCKET}/events"): "createEvent",
        ("GET", "/v1/samples"): "listSamples",
        ("POST", f"{_BUCKET}/samples"): "createSampleEvent",
    },
    "Tokens": {
        ("GET", "/v1/tokens"): "listTokens",
        ("POST", "/v1/tokens"): "createToken",
        ("PUT", "/v1/tokens/{token}"): "updateToken",
        ("DELETE", "/v1/tokens/{token}"): "deleteToken",
        ("POST", "/v1/tokens/{token}/rotate"): "rotateToken",
    },
    "Relay": {
        ("GET", "/v1/status"): "getStatus",
        ("GET", "/v1/usage"): "getUsage",
        ("GET", "/v1/series"): "getSeries",
        ("GET", "/v1/connected-clients"): "listConnectedClients",
        ("GET", "/openapi.json"): "getDescription",
    },
}
OPERATIONS: Final = {
    endpoint: (name, group) for group, endpoints in _GROUPS.items() for endpoint, name in endpoints.items()
}
"""By method and path, the operation's id and its group."""
GROUPS: Final = tuple(_GROUPS)

_TYPES: Final = {
    "ActionBody": "ResendRequest",
    "AnswerBody": "AnswerRequest",
    "BucketFields": "BucketUpdate",
    "ClientAnswer": "ConnectedClient",
    "ClientsAnswer": "ConnectedClients",
    "DeadPage": "DeadLetterPage",
    "FoundPage": "SearchPage",
    "InputFields": "InputUpdate",
    "LettersBody": "DeadLettersRequest",
    "MadeAnswer": "CreatedEvent",
    "MadeBody": "NewEvent",
    "NewTokenAnswer": "TokenWithSecret",
    "OldestAnswer": "OldestEvent",
    "OutputFields": "OutputUpdate",
    "RangeBody": "ResendRangeRequest",
    "ReplayAnswer": "ReplayResult",
    "RulesBody": "Rules",
    "SampleMade": "CreatedSampleEvent",
    "ScopesBody": "ScopesFields",
    "SeekAnswer": "SeekResult",
    "SentAnswer": "SendResult",
    "SlowestAnswer": "SlowestConsumer",
    "StatusAnswer": "RelayStatus",
    "TokenBody": "TokenFields",
}
"""The names of forms that do not follow the rule: `BinAnswer` is `Bin`, `SeekBody` is `SeekRequest`."""


def type_name(form: str) -> str:
    """The name of a form's type in the description."""
    if form in _TYPES:
        return _TYPES[form]
    return f"{form.removesuffix('Body')}Request" if form.endswith("Body") else form.removesuffix("Answer")


def name_types(document: Document) -> Document:
    """The same description, in which the types have their names; before, they have those of the forms."""
    schemas = document["components"]["schemas"]
    names = {form: type_name(form) for form in schemas}
    assert len(set(names.values())) == len(names), "two forms have one name"
    components = {**document["components"], "schemas": {names[form]: schema for form, schema in schemas.items()}}
    named: Document = _named({**document, "components": components}, names)
    return named


def _named(part: Any, names: dict[str, str]) -> Any:
    if isinstance(part, list):
        return [_named(each, names) for each in part]
    if not isinstance(part, dict):
        return part
    if _refers(part):
        return {**part, **refer(names[referred(part)])}
    return {key: _named(value, names) for key, value in part.items()}


_SCHEMA: Final = "#/components/schemas/"


def references(part: Any) -> list[Document]:
    """All references to types in a part of a description."""
    if isinstance(part, list):
        return [found for each in part for found in references(each)]
    if not isinstance(part, dict):
        return []
    return [part] * _refers(part) + [found for each in part.values() for found in references(each)]


def _refers(part: Document) -> bool:
    reference = part.get("$ref")
    return isinstance(reference, str) and reference.startswith(_SCHEMA)


def referred(reference: Document) -> str:
    """The name of the type that is referred to."""
    return str(reference["$ref"]).removeprefix(_SCHEMA)


def refer(name: str) -> Document:
    """A reference to a type."""
    return {"$ref": _SCHEMA + name}
