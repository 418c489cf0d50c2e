"""Radon transforms."""
