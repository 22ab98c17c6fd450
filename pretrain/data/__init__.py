"""Data for training: the order of samples as a pure function, and batches from shards."""
