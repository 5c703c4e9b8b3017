"""relay-tornado: a self-hosted webhook relay with an append-only log per bucket."""

__version__ = "0.5.33"
