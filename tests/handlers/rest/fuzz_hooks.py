"""Loaded by schemathesis: gives requests that should succeed something to be about, and keeps the token alive.

Ids, names and references can't be guessed from a schema, so what a request names is made for it. Requests that should
be refused stay as they are, but for the path.
"""

import functools
import json
import os
import urllib.request
from typing import Any

import schemathesis

URL = os.environ["FUZZ_URL"]
SECRET = os.environ["FUZZ_SECRET"]
RULES = {"match": {"type": "value", "parameter": {"source": "header", "name": "X-Kind"}, "value": "order"}}
OF_PUBLIC = ("/position", "/seek", "/replay", "/dead", "/resend")
"""What only an output has that the relay itself forwards to."""
_count = 0


def call(method: str, path: str, body: Any = None) -> Any:
    headers = {"Authorization": f"Bearer {SECRET}"}
    request = urllib.request.Request(
        URL + path, None if body is None else json.dumps(body).encode(), headers, method=method
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        data = response.read()
    return json.loads(data) if data else None


def bucket() -> dict[str, str]:
    """A fresh bucket with an input, an output, and a public one, whose position is a consumer."""
    global _count
    _count += 1
    made = call("POST", "/v1/buckets", {"name": f"fuzz-{os.getpid()}-{_count}"})
    outputs = f"/v1/buckets/{made['id']}/outputs"
    output = call("POST", outputs, {"name": "o"})
    about = {"name": "p", "internal": False, "destination": "https://shop.example/", "paused": True}
    public = call("POST", outputs, about)
    return {
        "bucket": made["id"],
        "input": made["inputs"][0]["id"],
        "output": output["id"],
        "public": public["id"],
        "consumer": f"output:{public['number']}",
    }


@functools.cache
def stable() -> dict[str, str]:
    """What is never changed or deleted: a bucket with an event in it, and an output."""
    things = bucket()
    call("POST", f"/v1/webhooks/{things['input']}", {"n": 1})
    log = call("GET", f"/v1/logs?bucket={things['bucket']}")["data"][0]["id"]
    return {**things, "log": log, "token": token(things["bucket"])}


def token(bucket: str) -> str:
    """A fresh token."""
    return str(call("POST", "/v1/tokens", {"scopes": {"buckets": [bucket]}})["key"])


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Adds what the relay takes from stock clients and does not describe, so that it is not expected to be refused;
    and closes answers, so that a field that is not described is found."""
    schemas = raw_schema["components"]["schemas"]
    for item in raw_schema["paths"].values():
        for endpoint in item.values():
            for parameter in endpoint["parameters"]:
                schema = parameter["schema"]
                if parameter["in"] == "query" and (
                    schema.get("default") != "hour" and ("enum" in schema or schema["type"] != "string")
                ):
                    number = {**schema, "type": "number"} if parameter["name"] in ("from", "to") else schema
                    numbers = [{"enum": [*range(6), *"012345"]}] if parameter["name"] == "status" else []
                    parameter["schema"] = {"anyOf": [number, {"const": ""}, *numbers]}
    for name in ("ResendRequest", "ResendRangeRequest"):
        schemas[name]["properties"]["process_policy"] = {"enum": ["", "skip", "force", None]}
    for name in ("OutputUpdate", "NewOutput"):
        schemas[name]["properties"]["rules"]["anyOf"].append({"type": "array", "maxItems": 0})
    for name in ("InputUpdate", "NewInput", "OutputUpdate", "NewOutput"):
        schemas[name]["properties"]["headers"] |= {"type": ["object", "array", "null"], "maxItems": 0}
    for name in ("InputUpdate", "NewInput"):
        ascii_bytes = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 127}, "maxItems": 1000}
        schemas[name]["properties"]["body"] = {"anyOf": [schemas[name]["properties"]["body"], ascii_bytes]}
    schemas["Rules"] = {"type": "object"}  # what a match does not need is not checked
    schemas["AnswerRequest"]["properties"] |= LENIENT
    schemas["AnswerRequest"]["else"] = {
        "required": ["status"],
        "properties": {"status": {"enum": [*STATUSES, *range(1, 6)]}},
    }
    for name in CLOSED:
        schemas[name]["additionalProperties"] = False


PLAIN: list[Any] = [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]
DIGITS = "^[0-9]{1,9}$"
ROUNDED = {"type": ["number", "string", "null"], "minimum": 0, "maximum": 2**53 - 1, "pattern": DIGITS}
STATUSES = ("received", "sent", "failed", "stalled", "rejected")
LENIENT: dict[str, Any] = {
    "status_code": {"type": ["integer", "string", "null"], "pattern": DIGITS},
    "duration_ms": ROUNDED,
    "retries": ROUNDED,
    "response_headers": {
        "type": ["object", "array", "null"],
        "maxItems": 0,
        "additionalProperties": {"anyOf": [*PLAIN, {"type": "null"}, {"type": "array", "items": {"anyOf": PLAIN}}]},
    },
    "response_body": {
        "type": ["string", "array", "null"],
        "anyOf": [
            {"items": {"type": "integer", "minimum": 0, "maximum": 255}},
            {"items": {"type": "integer", "minimum": -128, "maximum": 127}},
        ],
    },
    "status": {"type": ["string", "integer", "null"], "enum": ["", "preparing", *STATUSES, *range(6), None]},
}
"""An answer's fields as stock clients send them."""
CLOSED = (
    *("Answered", "Auth", "Bin", "BucketStatus", "Circuit", "ConnectedClient", "ConnectedClients", "Consumer"),
    *(
        "CreatedEvent",
        "CreatedSampleEvent",
        "DeadLetter",
        "DeadLetterPage",
        "Dedupe",
        "Deleted",
        "Delivery",
        "EventPage",
    ),
    *("Forgotten", "FoundLog", "Gap", "Lag", "Log", "LogPage", "MetGaps", "OldestEvent", "PlanNumbers", "Problem"),
    *(
        "RateLimit",
        "RelayStatus",
        "ReplayResult",
        "Rescheduled",
        "Resent",
        "Retention",
        "Sample",
        "Scopes",
        "SearchPage",
        "SeekResult",
    ),
    *("SendResult", "Series", "Skipped", "SlowestConsumer", "Token", "TokenWithSecret", "Usage", "UsageNumbers"),
    "Verify",
)
"""The types of answers, but for those in which fields that nobody here understands are echoed."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    names = set(case.path_parameters or {})
    positive = case.meta is None or case.meta.generation.mode.is_positive
    # What should be refused changes nothing, so it may be about what others are about, too.
    changes = case.method.upper() == "DELETE" or (positive and case.method.upper() == "PUT")
    things = stable()
    if changes and "bucket" in names:
        things = {**things, **bucket()}
    if changes and "token" in names:
        things = {**things, "token": token(things["bucket"])}
    if "output" in names and case.path.endswith(OF_PUBLIC):
        things = {**things, "output": things["public"]}
    for name in names:
        case.path_parameters[name] = things[name]
    if not positive:
        return
    query = dict(case.query or {})
    if query.get("consumer"):
        case.query["bucket"] = things["bucket"]
    if "bucket" in query:
        case.query["bucket"] = things["bucket"]
    for name in ("output", "cursor"):
        if query.get(name):
            case.query[name] = ""
    if case.method.upper() == "DELETE" and case.path.endswith("/dead"):
        case.query = {"all": "true"}
    if case.path.endswith("/rules") and isinstance(case.body, dict):
        case.body = RULES
    elif isinstance(case.body, dict):
        fit(case.body, things)


def fit(body: dict[str, Any], things: dict[str, str]) -> None:
    """Puts what exists, or what only the relay can judge, into a body."""
    if isinstance(body.get("scopes"), dict) and body["scopes"].get("buckets"):
        body["scopes"]["buckets"] = [things["bucket"]]
    if isinstance(body.get("name"), str):
        # JSON Schema can't say which characters can be printed.
        body["name"] = "".join(each if each.isprintable() else "x" for each in body["name"])
    if "response_from_output" in body:
        body["response_from_output"] = "anyOutput"
    if isinstance(body.get("verify"), dict):
        body["verify"] = {"provider": "github", "secrets": ["it is a secret"]}
    for name in ("rules", "filter"):
        if body.get(name):
            body[name] = RULES
    if isinstance(body.get("retention"), dict) and body["retention"].get("hard_max_bytes"):
        body["retention"].update(wait_for_consumers=True, hard_max_bytes=2**53 - 1)
    if body.get("paused") is True:
        body["paused"] = False  # whether it may be depends on what it is by then
    if isinstance(body.get("expires_at"), int | float):
        body["expires_at"] = 4_102_444_800
    if isinstance(body.get("to"), str):
        body["to"] = "latest"
    if body.get("anchor"):
        body["anchor"] = ""
    if set(body) == {"id"}:
        body["id"] = things["log"]
    if isinstance(body.get("ids"), list):
        body["ids"] = [things["log"]]
    if isinstance(body.get("headers"), list):
        body["headers"] = [["X-Kind", "order"]]
    if body.get("edited_from"):
        body["edited_from"] = things["log"]
    if str(body.get("destination")).startswith("http"):
        body["destination"] = "https://shop.example/"
    if isinstance(body.get("url"), str):
        body["url"] = URL  # which it refuses with 403
    if isinstance(body.get("input"), str):
        body["input"] = things["input"]
    if body.get("output"):
        body["output"] = things["output"]
    if body.get("cursor"):
        body["cursor"] = things["log"]
