"""Webhooks on either transport."""

from __future__ import annotations

from tests.handlers.conftest import transport as transport
