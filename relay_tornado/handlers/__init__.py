"""The Tornado edges: they translate, and make no decisions."""
