"""Imports of which only a part is executed, so that commands start faster."""

from __future__ import annotations

import sys


def structlog_alone() -> None:
    """Imports structlog without rich, which it imports if installed, for coloured tracebacks that the relay does not
    print. That saves a tenth of a relay's start."""
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
