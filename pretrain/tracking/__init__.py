"""The metrics journal and its MLflow uploader."""
