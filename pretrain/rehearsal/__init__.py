"""The code that runs on GPUs, run on a machine without one: a pretended GPU, whose tensors have no values."""
