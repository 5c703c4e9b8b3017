"""Requests to HTTP servers: what a name stands for, and connections on which answers come."""
