"""The fields of the JSON forms of a bucket, an input and an output, in their order."""

BUCKET = [
    *("id", "name", "description", "account_id", "created_at", "updated_at", "stream", "ephemeral", "suspended"),
    *("static_ip", "large_webhooks", "auth", "inputs", "outputs", "retention", "dedupe", "rate_limit", "max_body"),
    "expires_at",
]
INPUT = [
    *("id", "name", "description", "bucket_id", "function_id", "status_code", "body", "headers", "custom_domain"),
    *("path_prefix", "strip_path_prefix", "response_from_output", "verify", "rate_limit", "created_at", "updated_at"),
]
OUTPUT = [
    *("id", "name", "description", "bucket_id", "number", "destination", "internal", "disabled", "lock_path"),
    *("timeout", "retries", "tls_verification", "headers", "rules", "function_id", "throttle", "durability"),
    *("strict_order", "secret", "paused", "disabled_reason"),
    *("created_at", "updated_at"),
]
