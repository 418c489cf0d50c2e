"""Operators for the conformance suite, one module a family."""
