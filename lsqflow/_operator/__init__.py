"""Operators: the base class, one file a family, and what lineax needs to know."""

from . import base as base
