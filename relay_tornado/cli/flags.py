"""What the relay's errors call by the fields of REST, in the words of the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_RATE: Final = {
    "rate_limit": "--rate-limit",
    "rate_limit.events": "--rate-limit",
    "rate_limit.interval": "--rate-interval",
}

FLAGS: Final[Mapping[str, Mapping[str, str]]] = {
    "bucket": {
        "description": "--description",
        "ephemeral": "--ephemeral",
        "large_webhooks": "--large-webhooks",
        "max_body": "--max-body",
        "auth.type": "--auth",
        "auth.username": "--username",
        "auth.password": "--password",
        "auth.token": "--token",
        "retention.max_age": "--retention-age",
        "retention.max_events": "--retention-events",
        "retention.max_bytes": "--retention-bytes",
        "retention.wait_for_consumers": "--wait-for-consumers",
        "retention.hard_max_bytes": "--hard-max-bytes",
        "dedupe.header": "--dedupe",
        "dedupe.window": "--dedupe-window",
        "expires_at": "--expires",
        **_RATE,
    },
    "input": {
        "id": "--id",
        "name": "--name",
        "description": "--description",
        "status_code": "--status",
        "body": "--body",
        "headers": "--header",
        "custom_domain": "--custom-domain",
        "path_prefix": "--path-prefix",
        "strip_path_prefix": "--strip-path-prefix",
        "response_from_output": "--response-from-output",
        "verify.provider": "--verify",
        "verify.secrets": "--verify-secret",
        "verify.on_failure": "--on-failure",
        **_RATE,
    },
    "output": {
        "name": "--name",
        "description": "--description",
        "destination": "--destination",
        "internal": "--internal",
        "disabled": "--disabled",
        "lock_path": "--lock-path",
        "timeout": "--timeout",
        "retries": "--retries",
        "tls_verification": "--tls-verification",
        "headers": "--header",
        "strict_order": "--strict-order",
        "secret": "--secret",
    },
    "logs": {
        "bucket": "--bucket",
        "output": "--output",
        "limit": "--limit",
        "cursor": "--cursor",
        "filter": "--filter",
    },
    "search": {"bucket": "--bucket", "header": "--header", "limit": "--limit", "cursor": "--cursor"},
    "token": {
        "description": "--description",
        "buckets": "--bucket",
        "api_access": "--api-access",
        "durable": "--durable",
        "expires_at": "--expires",
        "grace": "--grace",
    },
    "consumer": {"to": "--to", "limit": "--limit", "cursor": "--cursor"},
}
"""By command, the flag for each field that an error may name."""


def in_flags(command: str | None, message: str) -> str:
    """An error of this command with flags for fields: at its beginning, between backquotes, and wherever a name with a
    dot or an underscore can't be another word. What stands in quotes is somebody's own text, and stays."""
    flags = FLAGS.get(command or "", {})
    for field in sorted(flags, key=len, reverse=True):
        for each in _forms(field):
            message = re.sub(each, flags[field], message)
    return message


def _forms(field: str) -> list[str]:
    name = re.escape(field) + r"(?:\[[0-9]+\])?"
    forms = [rf"\A{name}(?=: )", f"`{name}`"]
    leaf = field.rpartition(".")[2]
    forms += [rf"(?<![\w.'\"/-]){re.escape(each)}(?![\w.'\"-])" for each in (field, leaf) if set(each) & {".", "_"}]
    return forms
