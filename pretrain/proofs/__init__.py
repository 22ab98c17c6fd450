"""Proofs on a user's config: that layouts agree (`parity`), and that resume is exact (`resume`)."""
