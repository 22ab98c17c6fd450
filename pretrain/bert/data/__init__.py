"""Segment pairs with masked tokens (Devlin et al. 2019), as pure functions of seed, epoch and index."""
