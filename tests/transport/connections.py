"""What has a site's connection, and one that has no site."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.proxy_trust import ProxyTrust
from relay_tornado.settings import Settings
from relay_tornado.transport.limits import Limits
from tests.handlers.edge import Edge


def kind(site: Edge) -> type:
    """What has the only connection."""
    [connection] = site.site.listener.connections
    return type(connection)


def alone(ours: socket.socket) -> TornadoConnection:
    """A connection of nobody's, as Tornado has it."""
    owner: Any = SimpleNamespace(limits=Limits(Settings()), trust=ProxyTrust(), forget=lambda connection: None)
    return TornadoConnection(ours, "192.0.2.1", owner)
