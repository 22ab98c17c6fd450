"""Scores of checkpoints: perplexity, accuracy, image distances and lm-evaluation-harness."""
