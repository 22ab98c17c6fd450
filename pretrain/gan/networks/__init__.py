"""Generators and discriminators: config in, modules out."""
