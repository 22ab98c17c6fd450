"""Cleaning of text before it is tokenised: quality filters, language, and exact and near duplicates."""
