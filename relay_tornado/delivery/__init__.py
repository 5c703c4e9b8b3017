"""Delivery of events to subscribers: replay, then live."""
