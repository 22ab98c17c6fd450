"""Slurm: a config becomes a job that checks itself, saves, requeues and resumes."""
