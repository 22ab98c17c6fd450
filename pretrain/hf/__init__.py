"""Hugging Face both ways: our checkpoints as folders that transformers loads, and the reverse, each proven by
logits."""
