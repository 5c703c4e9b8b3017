"""What has a site's connection."""

from tests.handlers.edge import Edge


def kind(site: Edge) -> type:
    """What has the only connection."""
    [connection] = site.site.listener.connections
    return type(connection)
