"""Operators: the base class, one file a family, and what lineax needs to know."""

# In this order: the class, and what it can do (generic.py declares it).
from . import base as base, views as views  # isort: skip
from . import algebra as algebra, convert as convert  # isort: skip
