"""Conversations: read, made into tokens by a template, trained on, and held."""
