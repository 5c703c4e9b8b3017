"""Full-text search in events: an index in a file of its own, which follows the log and may be deleted at any time."""
