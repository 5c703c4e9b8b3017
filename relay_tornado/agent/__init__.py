"""The agent behind NAT: sends a relay's events to a nearby HTTP server, and returns its answers.

It imports nothing of the server, and works with any relay that speaks the protocol, including Webhook Relay's own.
"""
