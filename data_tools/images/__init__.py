"""Images of any kind to shards of square ones."""
