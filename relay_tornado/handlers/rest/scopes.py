"""Who may do what over REST: one row for each endpoint, enforced by the base handler before anything else is done.

A token is of one of three kinds: an administrator's (every bucket, and API access), one with API access to some
buckets, or one without API access, whatever its buckets are. What a token may not see answers as if it were not there.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class Need(enum.Enum):
    """What an endpoint asks of the token."""

    NOTHING = "no token"
    API = "a token with API access; the answer is limited to the token's buckets"
    BUCKET = "a token with API access that has the bucket in the path"
    EVENT = "a token with API access that has the bucket of the event in the path"
    ANSWER = "a token that has the bucket of the event in the path"
    ADMINISTRATOR = "an administrator's token: every bucket, and API access"


NEEDS: Final[Mapping[tuple[str, str], Need]] = {
    ("GET", "/openapi.json"): Need.NOTHING,
    ("GET", "/v1/buckets"): Need.API,
    ("POST", "/v1/buckets"): Need.ADMINISTRATOR,
    ("POST", "/v1/bins"): Need.ADMINISTRATOR,
    ("GET", "/v1/buckets/{bucket}"): Need.BUCKET,
    ("PUT", "/v1/buckets/{bucket}"): Need.BUCKET,
    ("DELETE", "/v1/buckets/{bucket}"): Need.BUCKET,
    ("POST", "/v1/buckets/{bucket}/inputs"): Need.BUCKET,
    ("PUT", "/v1/buckets/{bucket}/inputs/{input}"): Need.BUCKET,
    ("DELETE", "/v1/buckets/{bucket}/inputs/{input}"): Need.BUCKET,
    ("POST", "/v1/buckets/{bucket}/outputs"): Need.BUCKET,
    ("PUT", "/v1/buckets/{bucket}/outputs/{output}"): Need.BUCKET,
    ("DELETE", "/v1/buckets/{bucket}/outputs/{output}"): Need.BUCKET,
    ("PUT", "/v1/buckets/{bucket}/outputs/{output}/rules"): Need.BUCKET,
    ("DELETE", "/v1/buckets/{bucket}/outputs/{output}/rules"): Need.BUCKET,
    ("GET", "/v1/buckets/{bucket}/consumers"): Need.BUCKET,
    ("GET", "/v1/buckets/{bucket}/consumers/{consumer}"): Need.BUCKET,
    ("DELETE", "/v1/buckets/{bucket}/consumers/{consumer}"): Need.BUCKET,
    ("POST", "/v1/buckets/{bucket}/consumers/{consumer}/seek"): Need.BUCKET,
    ("POST", "/v1/buckets/{bucket}/consumers/{consumer}/replay"): Need.BUCKET,
    ("GET", "/v1/buckets/{bucket}/consumers/{consumer}/dead"): Need.BUCKET,
    ("POST", "/v1/buckets/{bucket}/consumers/{consumer}/dead"): Need.BUCKET,
    ("DELETE", "/v1/buckets/{bucket}/consumers/{consumer}/dead"): Need.BUCKET,
    ("POST", "/v1/buckets/{bucket}/consumers/{consumer}/dead/resend"): Need.BUCKET,
    ("GET", "/v1/buckets/{bucket}/dead"): Need.BUCKET,
    ("GET", "/v1/buckets/{bucket}/outputs/{output}/position"): Need.BUCKET,
    ("POST", "/v1/buckets/{bucket}/outputs/{output}/seek"): Need.BUCKET,
    ("POST", "/v1/buckets/{bucket}/outputs/{output}/replay"): Need.BUCKET,
    ("GET", "/v1/buckets/{bucket}/outputs/{output}/dead"): Need.BUCKET,
    ("POST", "/v1/buckets/{bucket}/outputs/{output}/dead"): Need.BUCKET,
    ("DELETE", "/v1/buckets/{bucket}/outputs/{output}/dead"): Need.BUCKET,
    ("POST", "/v1/buckets/{bucket}/outputs/{output}/dead/resend"): Need.BUCKET,
    ("GET", "/v1/buckets/{bucket}/logs/{log}"): Need.BUCKET,
    ("POST", "/v1/buckets/{bucket}/resend"): Need.BUCKET,
    ("GET", "/v1/logs"): Need.API,
    ("GET", "/v1/logs/{log}"): Need.EVENT,
    ("GET", "/v1/logs/{log}/body"): Need.EVENT,
    ("PUT", "/v1/logs/{log}"): Need.ANSWER,
    ("POST", "/v1/logs/{log}/action"): Need.EVENT,
    ("POST", "/v1/logs/{log}/send"): Need.EVENT,
    ("POST", "/v1/buckets/{bucket}/events"): Need.BUCKET,
    ("POST", "/v1/buckets/{bucket}/samples"): Need.BUCKET,
    ("GET", "/v1/samples"): Need.API,
    ("GET", "/v1/search"): Need.API,
    ("GET", "/v1/status"): Need.API,
    ("GET", "/v1/series"): Need.API,
    ("GET", "/v1/events"): Need.API,
    ("GET", "/v1/tokens"): Need.ADMINISTRATOR,
    ("POST", "/v1/tokens"): Need.ADMINISTRATOR,
    ("PUT", "/v1/tokens/{token}"): Need.ADMINISTRATOR,
    ("DELETE", "/v1/tokens/{token}"): Need.ADMINISTRATOR,
    ("POST", "/v1/tokens/{token}/rotate"): Need.ADMINISTRATOR,
    ("GET", "/v1/usage"): Need.API,
    ("GET", "/v1/connected-clients"): Need.API,
}
"""The method and the path of each endpoint; HEAD needs what GET needs."""
