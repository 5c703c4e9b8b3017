"""Imports that do less than Python's own, so that commands start faster."""

from __future__ import annotations

import gc
import importlib
import sys
from types import ModuleType


def import_uncollected(name: str) -> ModuleType:
    """Imports a module without garbage collections meanwhile, which would find hardly anything, as imported code stays.
    For that reason later collections leave out all objects that exist by then, also the one at the process's end. That
    saves a quarter of a command's processor time."""
    if name in sys.modules or not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


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
