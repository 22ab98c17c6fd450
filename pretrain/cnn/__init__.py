"""Convolutional classifiers of images."""
