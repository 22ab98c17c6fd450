"""Labelled examples for fine-tuning: tables of texts, tagged words, and batches of them."""
