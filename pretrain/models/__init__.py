"""Models: config in, module out; no loop and no input or output."""
