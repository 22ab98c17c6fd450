"""The kinds of tokenizer: a file each, and a line in `registry.py`."""
