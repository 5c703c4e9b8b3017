"""What each kind of token is answered at each endpoint, and a bucket with all that the requests name."""

from __future__ import annotations

from typing import Any

from tests.handlers.rest.world import World

KINDS = ("none", "wrong", "administrator", "all without API", "scoped with API", "scoped without API", "other")
"""`other` has API access to another bucket."""

YES, NO, HIDDEN, UNKNOWN = "2xx", 403, 404, 401
PUSH = {"provider": "github", "event": "push"}
SCOPED = (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)
LISTED = (UNKNOWN, UNKNOWN, YES, NO, YES, NO, YES)
ADMINISTRATORS = (UNKNOWN, UNKNOWN, YES, NO, NO, NO, NO)

# Method, path, body, and the outcome for each of KINDS.
ROWS: list[tuple[str, str, Any, tuple[Any, ...]]] = [
    ("GET", "/openapi.json", None, (YES, YES, YES, YES, YES, YES, YES)),
    ("GET", "/v1/buckets", None, LISTED),
    ("POST", "/v1/buckets", {"name": "new"}, ADMINISTRATORS),
    ("POST", "/v1/bins", None, ADMINISTRATORS),
    ("GET", "/v1/buckets/{bucket}", None, SCOPED),
    ("PUT", "/v1/buckets/{bucket}", {"description": "d"}, SCOPED),
    ("DELETE", "/v1/buckets/{bucket}?force=true", None, SCOPED),
    ("POST", "/v1/buckets/{bucket}/inputs", {"name": "i"}, SCOPED),
    ("PUT", "/v1/buckets/{bucket}/inputs/{input}", {"name": "i"}, SCOPED),
    ("DELETE", "/v1/buckets/{bucket}/inputs/{input}", None, SCOPED),
    ("POST", "/v1/buckets/{bucket}/outputs", {"name": "o"}, SCOPED),
    ("PUT", "/v1/buckets/{bucket}/outputs/{output}", {"name": "o"}, SCOPED),
    ("DELETE", "/v1/buckets/{bucket}/outputs/{output}", None, SCOPED),
    ("PUT", "/v1/buckets/{bucket}/outputs/{output}/rules", {}, SCOPED),
    ("DELETE", "/v1/buckets/{bucket}/outputs/{output}/rules", None, SCOPED),
    ("GET", "/v1/consumers", None, LISTED),
    ("GET", "/v1/buckets/{bucket}/consumers", None, SCOPED),
    ("GET", "/v1/buckets/{bucket}/consumers/{consumer}", None, SCOPED),
    ("DELETE", "/v1/buckets/{bucket}/consumers/{consumer}", None, SCOPED),
    ("POST", "/v1/buckets/{bucket}/consumers/{consumer}/seek", {"to": "earliest"}, SCOPED),
    ("POST", "/v1/buckets/{bucket}/consumers/{consumer}/replay", {"first": 1}, SCOPED),
    ("GET", "/v1/buckets/{bucket}/consumers/{consumer}/dead", None, SCOPED),
    ("POST", "/v1/buckets/{bucket}/consumers/{consumer}/dead", {"id": "{log}"}, SCOPED),
    ("DELETE", "/v1/buckets/{bucket}/consumers/{consumer}/dead?all=true", None, SCOPED),
    ("POST", "/v1/buckets/{bucket}/consumers/{consumer}/dead/resend", {"all": True}, SCOPED),
    ("GET", "/v1/buckets/{bucket}/dead", None, SCOPED),
    ("GET", "/v1/buckets/{bucket}/outputs/{public}/position", None, SCOPED),
    ("POST", "/v1/buckets/{bucket}/outputs/{public}/seek", {"to": "latest"}, SCOPED),
    ("POST", "/v1/buckets/{bucket}/outputs/{public}/replay", {"first": 1}, SCOPED),
    ("GET", "/v1/buckets/{bucket}/outputs/{public}/dead", None, SCOPED),
    ("POST", "/v1/buckets/{bucket}/outputs/{public}/dead", {"id": "{log}"}, SCOPED),
    ("DELETE", "/v1/buckets/{bucket}/outputs/{public}/dead?all=true", None, SCOPED),
    ("POST", "/v1/buckets/{bucket}/outputs/{public}/dead/resend", {"all": True}, SCOPED),
    ("GET", "/v1/buckets/{bucket}/logs/{log}", None, SCOPED),
    ("POST", "/v1/buckets/{bucket}/resend", {}, SCOPED),
    ("GET", "/v1/logs", None, LISTED),
    ("GET", "/v1/logs?bucket={bucket}", None, SCOPED),
    ("GET", "/v1/logs/{log}", None, SCOPED),
    ("GET", "/v1/logs/{log}/body", None, SCOPED),
    ("PUT", "/v1/logs/{log}", {"status_code": 200}, (UNKNOWN, UNKNOWN, YES, YES, YES, YES, HIDDEN)),
    ("POST", "/v1/logs/{log}/action", {"action": "resend"}, SCOPED),
    ("POST", "/v1/logs/{log}/send", {"url": "http://127.0.0.1:1/"}, (UNKNOWN, UNKNOWN, NO, NO, NO, NO, HIDDEN)),
    ("POST", "/v1/buckets/{bucket}/events", {}, SCOPED),
    ("POST", "/v1/buckets/{bucket}/samples", PUSH, SCOPED),
    ("GET", "/v1/samples", None, LISTED),
    ("GET", "/v1/search", None, LISTED),
    ("GET", "/v1/search?bucket={bucket}", None, SCOPED),
    ("GET", "/v1/status", None, LISTED),
    ("GET", "/v1/series", None, ADMINISTRATORS),
    ("GET", "/v1/series?bucket={bucket}", None, SCOPED),
    ("GET", "/v1/events?bucket={bucket}", None, SCOPED),
    ("GET", "/v1/tokens", None, ADMINISTRATORS),
    ("POST", "/v1/tokens", {}, ADMINISTRATORS),
    ("PUT", "/v1/tokens/{token}", {}, ADMINISTRATORS),
    ("DELETE", "/v1/tokens/{token}", None, ADMINISTRATORS),
    ("POST", "/v1/tokens/{token}/rotate", None, ADMINISTRATORS),
    ("GET", "/v1/usage", None, LISTED),
    ("GET", "/v1/connected-clients", None, LISTED),
]


async def populate(here: World, number: int) -> dict[str, str]:
    """A fresh bucket with one of everything, and a token of each kind."""
    bucket = await here.bucket(f"orders-{number}")
    other = await here.bucket(f"other-{number}")
    _, output = await here.relay.administration.create_output(bucket.id, name="o")
    _, public = await here.relay.administration.create_output(
        bucket.id, name="p", internal=False, destination="https://shop.example/", paused=True
    )
    log = await here.send(bucket)
    await here.consumer(bucket, "worker")
    spare, _ = await here.relay.administration.create_token()
    here.tokens["wrong"] = (here.tokens["administrator"][0], "sk-rly_wrong")
    await here.token("all without API", api_access=False)
    await here.token("scoped with API", buckets=[bucket.name])
    await here.token("scoped without API", buckets=[bucket.name], api_access=False)
    await here.token("other", buckets=[other.name])
    return {"bucket": bucket.id, "input": bucket.inputs[0].id, "output": output.id, "log": log, "token": spare.key,
            "public": public.id, "consumer": "worker"}  # fmt: skip


def filled(body: Any, things: dict[str, str]) -> Any:
    """The body of a row, with the log's id where it names one."""
    return {"id": things["log"]} if body == {"id": "{log}"} else body
