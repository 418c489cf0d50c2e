"""From the dual of a recurrence to the dual of the problem."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .. import _tree as tree
from .._problem.problem import Problem
from .._tree import Vector

Scalar = Float[Array, ""]


def finished_dual(
    problem: Problem,
    y: Vector,
    residual: Vector,
    inconsistent: Bool[Array, ""],
    noise: Scalar,
) -> Vector:
    """`(A Aᴴ + λ² I)⁺ b`, from the part of it that a recurrence has.

    **Arguments:**

    - `y`: the dual of the recurrence, with `x = Aᴴ y`, in the span of the process.
    - `residual`: `b − A x`, computed from the solution.
    - `inconsistent`: whether the residual is more than rounding.
    - `noise`: the norm of the rounding error in the residual.
    """
    damp = problem.damp
    if damp is None:
        return _without_residual(y, residual, inconsistent)
    y = _without_residual(y, residual, inconsistent & (damp == 0))
    return _with_null_part(y, residual, damp, noise)


def _without_residual(
    y: Vector, residual: Vector, inconsistent: Bool[Array, ""]
) -> Vector:
    """Undamped: make `y` orthogonal to null(Aᴴ).

    For an inconsistent system, the `y` of the recurrence has a multiple of `r` in it,
    which is removed. For a consistent one, `r` is rounding noise, and to remove a
    multiple of it would destroy `y`.
    """
    share = tree.inner(residual, y) * tree.safe_reciprocal(
        tree.inner(residual, residual)
    )
    return tree.axpy(jnp.where(inconsistent, -share, 0), residual, y)


def _with_null_part(y: Vector, residual: Vector, damp: Scalar, noise: Scalar) -> Vector:
    """Damped: `y = r / λ²`. The recurrence has only its part in range(A).

    It has that part more accurately than `r / λ²` does, by up to (‖A‖ / λ)². So the gap
    `e = r − λ² y` is added only where it is above rounding: then it is the part in
    null(Aᴴ).
    """
    gap = tree.axpy(-damp * damp, y, residual)
    weight = jnp.where(tree.norm(gap) > noise, tree.safe_reciprocal(damp * damp), 0)
    return tree.axpy(weight, gap, y)
