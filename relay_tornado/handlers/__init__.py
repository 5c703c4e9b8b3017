"""The Tornado edges: they translate, and decide nothing."""
