"""Files for `relay apply`, and what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WHOLE = """
[buckets.orders]
description = "What the shop sells"
retention = { max_age = "7d", max_bytes = "1GiB", max_events = "none", wait_for_consumers = true, \
hard_max_bytes = "2GiB" }
dedupe = { header = "auto", window = "12h" }
auth = { type = "basic", username = "shop", password = { file = "password" } }
max_body = "1MiB"
expires_at = 2100-01-01

[buckets.orders.inputs.orders-github]
name = "GitHub"
status_code = 202
headers = { X-Served-By = "relay" }
custom_domain = "Hooks.Example.org"
path_prefix = "/shop/"
verify = { provider = "github", secrets = [{ env = "GITHUB_SECRET" }] }
response_from_output = "worker"

[buckets.orders.outputs.worker]
destination = "http://localhost:9000/hooks"
timeout = "30s"
rules = { match = { type = "value", parameter = { source = "header", name = "X-Kind" }, value = "order" } }

[buckets.billing]
"""


def manifest(folder: Path, text: str) -> Path:
    path = folder / "relay.toml"
    path.write_text(text)
    (folder / "password").write_text("hidden-password\n")
    return path


def steps(answer: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(each["action"], each["kind"], each["name"]) for each in answer["changes"]]
