"""What a constraint is."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, PyTree

from .._operator.base import AbstractOperator


class AbstractConstraint(eqx.Module):
    """A condition on a vector, as a residual that vanishes where it holds."""

    @abc.abstractmethod
    def residual(self, point: PyTree[Array], *args: Any) -> PyTree[Array]:
        """`c(x)`, zero where the constraint holds."""

    @abc.abstractmethod
    def jacobian(self, point: PyTree[Array], *args: Any) -> AbstractOperator:
        """The derivative of the residual at a point."""
