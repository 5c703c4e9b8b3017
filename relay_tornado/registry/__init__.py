"""Buckets with their inputs, and tokens: a contract, and what stands behind it."""
