"""Conversations: read, turned into tokens by a template, trained on, and continued."""
