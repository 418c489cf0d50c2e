"""The dual that a recurrence leaves, made the dual of the problem."""

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
    """`(A Aᴴ + λ² I)⁺ b`, from what the recurrence has of it.

    **Arguments:**

    - `y`: with `x = Aᴴ y`, in the span of the process.
    - `residual`: `b − A x`, computed from the solution.
    - `inconsistent`: whether the residual is more than rounding.
    - `noise`: the norm of what in the residual is rounding.
    """
    damp = problem.damp
    if damp is None:
        return _without_residual(y, residual, inconsistent)
    y = _without_residual(y, residual, inconsistent & (damp == 0))
    return _with_null_part(y, residual, damp, noise)


def _without_residual(
    y: Vector, residual: Vector, inconsistent: Bool[Array, ""]
) -> Vector:
    """Undamped: `y` is orthogonal to null(Aᴴ).

    The recurrence leaves a multiple of `r` where the system is inconsistent. Where it
    is consistent, `r` is rounding noise, and projecting on noise destroys `y`.
    """
    share = tree.inner(residual, y) * tree.safe_reciprocal(
        tree.inner(residual, residual)
    )
    return tree.axpy(jnp.where(inconsistent, -share, 0), residual, y)


def _with_null_part(y: Vector, residual: Vector, damp: Scalar, noise: Scalar) -> Vector:
    """Damped: `y = r / λ²`, of which the recurrence has only the part in range(A).

    It has that part to higher accuracy than `r / λ²`, by up to (‖A‖ / λ)². So the gap
    `e = r − λ² y` is added only where it is above rounding, that is, where there is a
    part in null(Aᴴ).
    """
    gap = tree.axpy(-damp * damp, y, residual)
    weight = jnp.where(tree.norm(gap) > noise, tree.safe_reciprocal(damp * damp), 0)
    return tree.axpy(weight, gap, y)
