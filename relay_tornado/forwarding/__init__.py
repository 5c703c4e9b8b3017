"""Public outputs: the relay itself sends a bucket's events to HTTP destinations."""
