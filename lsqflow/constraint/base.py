"""What a constraint is."""

import abc
import functools as ft
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._operator.function import JacobianOperator


class AbstractConstraint(eqx.Module):
    """A condition on parameters, as a residual that vanishes where it holds.

    Subclass it with `residual`; everything else follows:

    ```python
    class UnitNorm(lf.AbstractConstraint):
        def residual(self, params, *args):
            return jnp.sum(params**2) - 1
    ```

    Override `jacobian` where the derivative has a structure that is worth knowing, and
    `violation` where another number tells a person more. Constraints are pytrees; they
    are combined with `&` and restricted to part of the parameters with `on`.
    """

    @abc.abstractmethod
    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        """`c(θ)`, a pytree of floating-point arrays.

        Equations hold where it is zero, inequalities where it is not positive.
        """

    def jacobian(self, params: PyTree[Array], *args: Any) -> AbstractOperator:
        """The derivative of the residual at `params`, as an operator."""
        return JacobianOperator(self.residual, params, *args)

    def inequality(self) -> PyTree[bool]:
        """Which leaves of the residual are inequalities, `c(θ) ≤ 0`.

        One boolean for all of them, or a pytree of booleans.
        """
        return False

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        """How far the constraint is from holding: here, the largest |c|.

        For inequalities, the largest positive entry. Zero where the constraint holds.
        """
        return largest_violation(self.residual(params, *args), self.inequality())

    def at(self, step: ArrayLike) -> "AbstractConstraint":
        """The constraint in force at a step of training; itself if it is constant."""
        return self

    def redrawn(self) -> bool:
        """Whether rows mean something else at each step: at random points, say."""
        return False

    def parts(self) -> tuple["AbstractConstraint", ...]:
        """The constraints of which this one is the conjunction."""
        return (self,)

    def on(self, where: Callable[[Any], Any]) -> "AbstractConstraint":
        """The same constraint on part of the parameters.

        **Arguments:**

        - `where`: picks the part, such as `lambda params: params["dense"]["kernel"]`;
            any linear function of the parameters will do.
        """
        return restricted(self, where)

    def __and__(self, other: "AbstractConstraint") -> "AbstractConstraint":
        if not isinstance(other, AbstractConstraint):
            return NotImplemented
        return conjunction(self, other)


def rows_of(inequality: PyTree[bool], residual: PyTree[Array]) -> PyTree[bool]:
    """A boolean for each leaf of the residual, from one for each subtree."""
    return jax.tree.map(
        lambda flag, part: jax.tree.map(lambda _: flag, part), inequality, residual
    )


def excess(residual: PyTree[Array], inequality: PyTree[bool]) -> PyTree[Array]:
    """The residual, with inequalities that hold set to zero."""
    return jax.tree.map(
        lambda c, flag: jnp.maximum(c, jnp.zeros_like(c)) if flag else c,
        residual,
        rows_of(inequality, residual),
    )


def largest_violation(
    residual: PyTree[Array],
    inequality: PyTree[bool] = False,  # noqa: FBT002
) -> Float[Array, ""]:
    """The largest entry, in absolute value, that should be zero."""
    leaves = jax.tree.leaves(excess(residual, inequality))
    dtype = tree.scalar_dtype(leaves)
    largest = [jnp.max(jnp.abs(x), initial=0).astype(dtype) for x in leaves]
    return ft.reduce(jnp.maximum, largest, jnp.zeros((), dtype))


# What `&` and `on` return are subclasses of the class above; compose.py defines them.


@ft.singledispatch
def restricted(constraint: Any, where: Callable[[Any], Any]) -> Any:
    """A constraint on part of the parameters."""
    raise TypeError(f"`on` is not defined for {type(constraint).__name__}, {where}.")


@ft.singledispatch
def conjunction(first: Any, second: Any) -> Any:
    """Two constraints at once."""
    raise TypeError(f"`&` is not defined for {type(first).__name__} and {second}.")
