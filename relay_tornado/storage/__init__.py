"""The SQLite file: its lock, its witness, its schema, its connections."""
