"""The services that REST's handlers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from relay_tornado.admin.administration import Administration
from relay_tornado.admin.logs import Logs
from relay_tornado.admin.stored import Stored
from relay_tornado.counters import ConsumerLevel
from relay_tornado.delivery.responses import Responses
from relay_tornado.errors import Overloaded
from relay_tornado.forwarding.forwarding import Forwarding
from relay_tornado.handlers.connected_clients import ConnectedClients
from relay_tornado.handlers.credentials import Callers
from relay_tornado.handlers.rest.reads import Reads
from relay_tornado.ingest.ingest import Ingest
from relay_tornado.model import MIB
from relay_tornado.series.series import Series

BODY_BUDGET: Final = 64 * MIB
"""Maximum number of bytes of request bodies being received; above it requests get a 503."""


@dataclass(slots=True)
class Rest:
    """The services behind the REST interface."""

    administration: Administration
    logs: Logs
    stored: Stored
    responses: Responses
    callers: Callers
    clients: ConnectedClients
    description: Callable[[], bytes]
    """Returns the API's description, for /openapi.json."""
    ingest: Ingest
    forwarding: Forwarding
    series: Series
    lags: Callable[[], Sequence[ConsumerLevel]]
    """Returns how far consumers are behind, as last read, with their buckets' ids."""
    reads: Reads = field(default_factory=Reads)
    incoming: int = 0
    """Bytes of request bodies held now."""

    def take(self, size: int) -> None:
        """Counts `size` bytes of a body. Raises Overloaded if there are too many."""
        if self.incoming + size > BODY_BUDGET:
            raise Overloaded("too many large requests at once: send this one again later")
        self.incoming += size

    def give_back(self, size: int) -> None:
        self.incoming -= size
