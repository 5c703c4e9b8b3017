"""Outputs, their rules, and events that these tell apart."""

from typing import Any

from relay_tornado.model import Output


def output(n: int, **fields: Any) -> Output:
    return Output(f"out-{n}", n, f"output {n}", 0, 0, destination=f"http://to-{n}.example", **fields)


def header_is(value: str) -> dict[str, Any]:
    """Rules that let events with this X-Kind pass."""
    return {"match": {"type": "value", "value": value, "parameter": {"source": "header", "name": "x-kind"}}}


def kind(value: str) -> bytes:
    return f"X-Kind: {value}\r\n".encode()
