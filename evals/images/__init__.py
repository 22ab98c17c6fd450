"""Scores of what is about images: accuracy of classifiers, and how near generated images are to real ones."""
