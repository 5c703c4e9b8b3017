"""The event log: its contract, how cursors are judged, and its two implementations."""
