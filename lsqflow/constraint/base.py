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
from .inputs import described, require_residual, require_selection


class AbstractConstraint(eqx.Module):
    """A condition on parameters, as a residual that is zero where it holds.

    Subclass it with `residual`. Everything else follows:

    ```python
    class UnitNorm(lf.AbstractConstraint):
        def residual(self, params, *args):
            return jnp.sum(params**2) - 1
    ```

    Override `jacobian` where the derivative has a structure that saves work, and
    `violation` where another number tells a person more.

    `first & second` asks for both. `constraint.on(where)` is the constraint on a part
    of the parameters. Constraints are pytrees; their arrays may be traced.
    """

    @abc.abstractmethod
    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        """`c(θ)`, a pytree of floating-point arrays.

        Equations hold where it is zero, inequalities where it is not positive.

        **Arguments:**

        - `params`: θ, a pytree of floating-point arrays.
        - `args`: what the constraint needs at each step besides, such as points.
        """

    def jacobian(self, params: PyTree[Array], *args: Any) -> AbstractOperator:
        """The derivative of the residual at `params`, as an operator."""
        return JacobianOperator(self.residual, params, *args)

    def inequality(self) -> PyTree[bool]:
        """Which leaves of the residual are inequalities, `c(θ) ≤ 0`; here, none.

        One boolean for all of them, or a pytree of booleans.
        """
        return False

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        """How far the constraint is from holding: here, the largest |c|.

        For inequalities, the largest positive entry. Zero where the constraint holds.

        **Raises:** `TypeError` if the residual is not made of floating-point arrays.
        """
        residual = self.residual(params, *args)
        require_residual(residual, self)
        residual = jax.tree.map(jnp.asarray, residual)
        return largest_violation(residual, self.inequality())

    def at(self, step: ArrayLike) -> "AbstractConstraint":
        """The constraint in force at a step of training; itself if it is constant."""
        return self

    def redrawn(self) -> bool:
        """Whether the rows are others at each step, such as at random points."""
        return False

    def parts(self) -> tuple["AbstractConstraint", ...]:
        """The constraints that `&` has joined to this one; itself if there are none."""
        return (self,)

    def on(self, where: Callable[[Any], Any]) -> "AbstractConstraint":
        """The same constraint on part of the parameters.

        **Arguments:**

        - `where`: picks the part, such as `lambda params: params["dense"]["kernel"]`.
            Any linear function of the parameters will do.

        **Raises:** `TypeError` if `where` is no function.
        """
        require_selection(where, f"{type(self).__name__}.on")
        return restricted(self, where)

    def __and__(self, other: "AbstractConstraint") -> "AbstractConstraint":
        if not isinstance(other, AbstractConstraint):
            raise TypeError(
                f"`&` joins a constraint to another one; got {described(other)}. Wrap "
                "a function in `lsqflow.Equality` or `lsqflow.Inequality`."
            )
        return conjunction(self, other)

    def __rand__(self, other: Any) -> "AbstractConstraint":
        # Only reached if `other` is no constraint: the same mistake.
        return self & other

    def __bool__(self) -> bool:
        # `first and second` would be `second`, without a word about `first`.
        raise TypeError(
            "A constraint is neither true nor false. To ask for two of them at once, "
            "write `first & second` instead of `first and second`. To test whether "
            "one holds, compare `constraint.violation(params)` with a tolerance."
        )


def rows_of(inequality: PyTree[bool], residual: PyTree[Array]) -> PyTree[bool]:
    """One boolean for each leaf of the residual, from one for each subtree."""
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
