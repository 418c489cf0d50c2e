"""Least squares with bounds on the unknowns."""
