"""Polynomials of one variable: the smallest family of models there is, for tests/test_extension.py."""
