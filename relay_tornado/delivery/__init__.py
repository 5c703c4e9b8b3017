"""Delivery: replay, then live, to the subscribers."""
