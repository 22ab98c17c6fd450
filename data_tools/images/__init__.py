"""Images of many formats to shards of square images."""
