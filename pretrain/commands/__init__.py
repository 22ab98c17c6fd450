"""Commands that are not a room of their own, one file each."""
