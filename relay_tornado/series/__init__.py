"""What the relay measures of itself over time: a small file of its own, there after a restart."""
