"""Verdicts on numbers: not finite, a loss that jumps, replicas that drift apart."""
