"""Raw text to tokenizer to sharded WebDataset tars; imports no torch."""
