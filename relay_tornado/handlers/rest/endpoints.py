"""REST's endpoints: what each asks of the token, and its name in the API's description.

The base handler enforces what is asked before anything else is done. A token is of one of three kinds: an
administrator's (every bucket, and API access), one with API access to some buckets, or one without API access, whatever
its buckets are. What a token may not see answers as if it were not there.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple


class Need(enum.Enum):
    """What an endpoint asks of the token."""

    NOTHING = "no token"
    API = "a token with API access; the answer is limited to the token's buckets"
    BUCKET = "a token with API access that has the bucket in the path"
    EVENT = "a token with API access that has the bucket of the event in the path"
    ANSWER = "a token that has the bucket of the event in the path"
    ADMINISTRATOR = "an administrator's token: every bucket, and API access"


class Endpoint(NamedTuple):
    """`name` is the operation's id in the description, by which generated clients call it; `group` is its tag."""

    need: Need
    name: str
    group: str


_BUCKET: Final = "/v1/buckets/{bucket}"
_CONSUMER: Final = f"{_BUCKET}/consumers/{{consumer}}"
_OUTPUT: Final = f"{_BUCKET}/outputs/{{output}}"

_GROUPS: Final[Mapping[str, Mapping[tuple[str, str], tuple[Need, str]]]] = {
    "Buckets": {
        ("GET", "/v1/buckets"): (Need.API, "listBuckets"),
        ("POST", "/v1/buckets"): (Need.ADMINISTRATOR, "createBucket"),
        ("GET", _BUCKET): (Need.BUCKET, "getBucket"),
        ("PUT", _BUCKET): (Need.BUCKET, "updateBucket"),
        ("DELETE", _BUCKET): (Need.BUCKET, "deleteBucket"),
        ("POST", "/v1/bins"): (Need.ADMINISTRATOR, "createBin"),
    },
    "Inputs": {
        ("POST", f"{_BUCKET}/inputs"): (Need.BUCKET, "createInput"),
        ("PUT", f"{_BUCKET}/inputs/{{input}}"): (Need.BUCKET, "updateInput"),
        ("DELETE", f"{_BUCKET}/inputs/{{input}}"): (Need.BUCKET, "deleteInput"),
    },
    "Outputs": {
        ("POST", f"{_BUCKET}/outputs"): (Need.BUCKET, "createOutput"),
        ("PUT", _OUTPUT): (Need.BUCKET, "updateOutput"),
        ("DELETE", _OUTPUT): (Need.BUCKET, "deleteOutput"),
        ("PUT", f"{_OUTPUT}/rules"): (Need.BUCKET, "setOutputRules"),
        ("DELETE", f"{_OUTPUT}/rules"): (Need.BUCKET, "deleteOutputRules"),
        ("GET", f"{_OUTPUT}/position"): (Need.BUCKET, "getOutputPosition"),
        ("POST", f"{_OUTPUT}/seek"): (Need.BUCKET, "seekOutput"),
        ("POST", f"{_OUTPUT}/replay"): (Need.BUCKET, "replayOutput"),
        ("GET", f"{_OUTPUT}/dead"): (Need.BUCKET, "listOutputDeadLetters"),
        ("POST", f"{_OUTPUT}/dead"): (Need.BUCKET, "giveUpOutputEvent"),
        ("DELETE", f"{_OUTPUT}/dead"): (Need.BUCKET, "forgetOutputDeadLetters"),
        ("POST", f"{_OUTPUT}/dead/resend"): (Need.BUCKET, "resendOutputDeadLetters"),
    },
    "Consumers": {
        ("GET", "/v1/consumers"): (Need.API, "listAllConsumers"),
        ("GET", f"{_BUCKET}/consumers"): (Need.BUCKET, "listConsumers"),
        ("GET", _CONSUMER): (Need.BUCKET, "getConsumer"),
        ("DELETE", _CONSUMER): (Need.BUCKET, "deleteConsumer"),
        ("POST", f"{_CONSUMER}/seek"): (Need.BUCKET, "seekConsumer"),
        ("POST", f"{_CONSUMER}/replay"): (Need.BUCKET, "replayConsumer"),
        ("GET", f"{_CONSUMER}/dead"): (Need.BUCKET, "listConsumerDeadLetters"),
        ("POST", f"{_CONSUMER}/dead"): (Need.BUCKET, "giveUpConsumerEvent"),
        ("DELETE", f"{_CONSUMER}/dead"): (Need.BUCKET, "forgetConsumerDeadLetters"),
        ("POST", f"{_CONSUMER}/dead/resend"): (Need.BUCKET, "resendConsumerDeadLetters"),
        ("GET", f"{_BUCKET}/dead"): (Need.BUCKET, "listDeadLetters"),
    },
    "Logs": {
        ("GET", "/v1/logs"): (Need.API, "listLogs"),
        ("GET", "/v1/logs/{log}"): (Need.EVENT, "getLog"),
        ("GET", f"{_BUCKET}/logs/{{log}}"): (Need.BUCKET, "getBucketLog"),
        ("GET", "/v1/logs/{log}/body"): (Need.EVENT, "getLogBody"),
        ("PUT", "/v1/logs/{log}"): (Need.ANSWER, "answerLog"),
        ("POST", "/v1/logs/{log}/action"): (Need.EVENT, "resendLog"),
        ("POST", "/v1/logs/{log}/send"): (Need.EVENT, "sendLog"),
        ("POST", f"{_BUCKET}/resend"): (Need.BUCKET, "resendLogs"),
        ("GET", "/v1/search"): (Need.API, "searchLogs"),
        ("GET", "/v1/events"): (Need.API, "pollEvents"),
        ("POST", f"{_BUCKET}/events"): (Need.BUCKET, "createEvent"),
        ("GET", "/v1/samples"): (Need.API, "listSamples"),
        ("POST", f"{_BUCKET}/samples"): (Need.BUCKET, "createSampleEvent"),
    },
    "Tokens": {
        ("GET", "/v1/tokens"): (Need.ADMINISTRATOR, "listTokens"),
        ("POST", "/v1/tokens"): (Need.ADMINISTRATOR, "createToken"),
        ("PUT", "/v1/tokens/{token}"): (Need.ADMINISTRATOR, "updateToken"),
        ("DELETE", "/v1/tokens/{token}"): (Need.ADMINISTRATOR, "deleteToken"),
        ("POST", "/v1/tokens/{token}/rotate"): (Need.ADMINISTRATOR, "rotateToken"),
    },
    "Relay": {
        ("GET", "/v1/status"): (Need.API, "getStatus"),
        ("GET", "/v1/usage"): (Need.API, "getUsage"),
        ("GET", "/v1/series"): (Need.API, "getSeries"),
        ("GET", "/v1/connected-clients"): (Need.API, "listConnectedClients"),
        ("GET", "/openapi.json"): (Need.NOTHING, "getDescription"),
    },
}
GROUPS: Final = tuple(_GROUPS)
ENDPOINTS: Final[Mapping[tuple[str, str], Endpoint]] = {
    key: Endpoint(need, name, group) for group, rows in _GROUPS.items() for key, (need, name) in rows.items()
}
"""By method and path; HEAD needs what GET needs."""
