"""What has a site's connection, and a request that Tornado answers."""

from tests.handlers.edge import Edge
from tests.handlers.raw import request

HEALTH = request(b"/healthz", method=b"GET")


def kind(site: Edge) -> type:
    """What has the only connection."""
    [connection] = site.site.listener.connections
    return type(connection)
