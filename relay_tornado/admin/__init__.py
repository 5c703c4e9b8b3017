"""Administration: the only way to change buckets, inputs, outputs and tokens."""
