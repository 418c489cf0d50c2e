"""Plane rotations without branches."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _tree as tree

Scalar = Float[Array, ""]


def givens(a: Scalar, b: Scalar) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """`c, s, r, 1 / r` of the rotation `[c s; -s c]` of `(a, b)` to `(r, 0)`, `r ≥ 0`.

    For `a = b = 0` it is the identity, with 0 for `1 / r`. It takes one reciprocal
    square root and no division: on small problems these make up the cost of a step.
    """
    r, inverse = tree.root(a * a + b * b)
    return jnp.where(r == 0, 1, a * inverse), b * inverse, r, inverse


def undamp(
    rhs: Scalar, diagonal: Scalar, damp: Scalar | None
) -> tuple[Scalar, Scalar, Scalar]:
    """Rotate away the `λ` below a diagonal entry, and the right-hand side with it.

    **Returns:** what is left of the right-hand side, what has left it for good, and the
    new diagonal entry. For an undamped problem nothing changes.
    """
    if damp is None:
        return rhs, jnp.zeros_like(rhs), diagonal
    c, s, rotated, _ = givens(diagonal, damp)
    return c * rhs, s * rhs, rotated
