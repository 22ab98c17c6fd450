"""Text before it is tokenised: quality filters, language, and duplicates, exact and near."""
