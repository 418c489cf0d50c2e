"""Kernel matrices and random features."""
