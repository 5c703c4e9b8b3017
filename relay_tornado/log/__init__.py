"""The event log: its contract, the placing of cursors, and the implementation on SQLite."""
