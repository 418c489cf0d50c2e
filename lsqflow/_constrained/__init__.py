"""Least squares subject to equations or bounds."""
