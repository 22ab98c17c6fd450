"""Which keys exist, what they mean, and which combinations are legal."""
