"""Request bins: buckets that are made to see what arrives, and that are deleted after a day unless they are kept."""

from __future__ import annotations

import secrets
import time
from typing import Final

from relay_tornado.admin.administration import Administration
from relay_tornado.errors import Conflict
from relay_tornado.model import DAY, Bucket

LIFE: Final = DAY
MAX_BINS: Final = 20
"""At a time; a bin that is kept is none any more."""
PREFIX: Final = "bin-"

_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that one mistakes for another


async def create_bin(administration: Administration) -> Bucket:
    """Makes a bucket with a name of its own that ends in a day. Raises Conflict where there are too many of them."""
    bins = [each for each in administration.list_buckets() if each.name.startswith(PREFIX) and each.expires_at]
    if len(bins) >= MAX_BINS:
        raise Conflict(f"there are {len(bins)} request bins already, and no more are made: delete one, or keep one")
    name = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(8))
    return await administration.create_bucket(name, description="A request bin", expires_at=time.time() + LIFE)
