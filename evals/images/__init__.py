"""Scores for images: accuracy of classifiers, and the distance of generated images from real ones."""
