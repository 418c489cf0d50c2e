"""Operators made of blocks, parts and products."""
