"""Translates the fields of REST that the relay's errors name into flags of the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final


def _same(*fields: str) -> dict[str, str]:
    """The fields whose flags have the same names."""
    return {each: "--" + each.replace("_", "-") for each in fields}


_RATE: Final = {
    "rate_limit": "--rate-limit",
    "rate_limit.events": "--rate-limit",
    "rate_limit.interval": "--rate-interval",
}
_TIMES: Final = {"from": "--since", "to": "--until"}

FLAGS: Final[Mapping[str, Mapping[str, str]]] = {
    "bucket": {
        **_same("description", "ephemeral", "large_webhooks", "max_body"),
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
        **_same("id", "name", "description", "body", "custom_domain", "path_prefix", "strip_path_prefix"),
        **_same("response_from_output"),
        "status_code": "--status",
        "headers": "--header",
        "verify.provider": "--verify",
        "verify.secrets": "--verify-secret",
        "verify.on_failure": "--on-failure",
        **_RATE,
    },
    "output": {
        **_same("name", "description", "destination", "internal", "disabled", "lock_path", "timeout", "retries"),
        **_same("tls_verification", "strict_order", "secret"),
        "headers": "--header",
    },
    "logs": {**_same("bucket", "output", "limit", "cursor", "filter"), **_TIMES},
    "search": {**_same("bucket", "header", "limit", "cursor"), **_TIMES},
    "token": {
        **_same("description", "api_access", "durable", "grace"),
        "buckets": "--bucket",
        "scopes.buckets": "--bucket",
        "expires_at": "--expires",
    },
    "consumer": _same("to", "limit", "cursor"),
}
"""By command, the flag for each field that errors name."""


def in_flags(command: str | None, message: str) -> str:
    """Replaces fields in an error of this command by flags: at its beginning, in backquotes, and names with a dot or an
    underscore everywhere. Text in quotes is the user's own, and stays."""
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
