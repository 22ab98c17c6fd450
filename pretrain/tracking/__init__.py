"""The metrics journal of a run, and its upload to MLflow."""
