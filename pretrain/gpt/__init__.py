"""GPTs: pretrained on token shards, fine-tuned on conversations."""
