"""Plane rotations without branches."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _tree as tree

Scalar = Float[Array, ""]


def givens(a: Scalar, b: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """The rotation `[c s; -s c]` that takes `(a, b)` to `(r, 0)`, with `r ≥ 0`.

    The identity for `a = b = 0`. One square root and one division: on small problems
    these are what a step costs.
    """
    r = tree.safe_sqrt(a * a + b * b)
    inverse = tree.safe_reciprocal(r)
    return jnp.where(r == 0, 1, a * inverse), b * inverse, r


def undamp(
    rhs: Scalar, diagonal: Scalar, damp: Scalar | None
) -> tuple[Scalar, Scalar, Scalar]:
    """Rotate `λ` below a diagonal entry away, and the right-hand side with it.

    Returns what is left of the right-hand side, what leaves it for good, and the new
    diagonal entry. Nothing to do for an undamped problem.
    """
    if damp is None:
        return rhs, jnp.zeros_like(rhs), diagonal
    c, s, rotated = givens(diagonal, damp)
    return c * rhs, s * rhs, rotated
