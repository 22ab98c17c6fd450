"""BERTs: pretrained on token shards, fine-tuned on labelled texts and words."""
