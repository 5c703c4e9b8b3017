"""How fast the relay is, beside what it is measured against: `python -m bench`."""
