"""Imports without what they would take along and nothing here needs, so that commands start fast."""

from __future__ import annotations

import sys


def structlog_alone() -> None:
    """Imports structlog without rich, which it takes along where that is installed, for tracebacks in colour that
    nothing here prints: a tenth of what it takes to start a relay."""
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
