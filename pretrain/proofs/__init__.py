"""The project's own proofs, for a user's config: layouts agree (`parity`), resume is exact (`resume`)."""
