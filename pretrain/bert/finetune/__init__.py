"""Classifiers and taggers on top of a pretrained BERT."""
