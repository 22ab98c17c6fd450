"""Ranks: how they find each other, are started, exchange plain values, and end together. Nothing here knows
about models."""
