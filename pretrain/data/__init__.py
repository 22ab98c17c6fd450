"""The order of samples as a pure function, and batches from shards."""
