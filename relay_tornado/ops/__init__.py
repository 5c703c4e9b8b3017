"""The file as a thing to keep: backup, restore, check, export, and what takes its space."""
