"""Recurrent language models at work: scores, text, and what `pretrain check` says of them."""
