"""Slurm: turns a config into a job that checks itself, saves, requeues and resumes."""
