"""Solvers: one loop, and one file of scalars for each method."""
