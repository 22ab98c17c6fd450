"""Raw text and images to sharded WebDataset tars; imports no torch."""
