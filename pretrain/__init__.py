"""Config to layout to model to loop to checkpoint to MLflow."""
