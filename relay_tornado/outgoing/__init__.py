"""Requests to HTTP servers: name resolution, connections, and answers."""
