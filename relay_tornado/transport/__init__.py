"""The relay's own transport, which reads webhooks from plain connections without Tornado, and what it shares with
Tornado's connections."""
