"""Administration: the one way by which buckets, inputs and tokens change."""
