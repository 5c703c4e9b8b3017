"""The agent behind NAT: gives the events of a relay to an HTTP server near by, and its answers back.

It imports nothing of the server, and works with any relay that speaks the protocol, Webhook Relay's own among them.
"""
