"""Operators on signals and images."""
