"""The registry of buckets (with inputs and outputs) and tokens: the contract and its implementations."""
