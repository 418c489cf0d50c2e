"""Constraint specifications: linearisable residuals that should be zero."""
