"""The relay's own transport, which reads webhooks from plain connections without Tornado."""
