"""The relay's own way of reading webhooks from plain connections."""
