"""A run on disk and as a process: its folder, lock, status, logs, progress, signals and exit. Nothing here
knows about models."""
