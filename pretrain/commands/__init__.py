"""Commands that have no package of their own, one file each."""
