"""Layers of the transformers: attention, norms, linear layers, vocabulary embeddings."""
