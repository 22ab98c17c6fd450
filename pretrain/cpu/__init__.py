"""Replacements for CUDA on a CPU: patches of megatron-core, gloo, and linear layers on oneDNN."""
