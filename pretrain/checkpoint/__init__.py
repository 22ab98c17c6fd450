"""Save, verify, find the newest good one, and load on any layout."""
