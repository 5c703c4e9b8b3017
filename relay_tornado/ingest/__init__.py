"""Accepting webhooks, independent of the transport."""
