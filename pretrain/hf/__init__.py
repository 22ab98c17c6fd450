"""Hugging Face both ways: our checkpoints as folders that transformers loads, and the reverse. Every
conversion is checked by comparing logits."""
