"""Plane rotations without branches."""

import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]


def givens(a: Scalar, b: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """The rotation `[c s; -s c]` that takes `(a, b)` to `(r, 0)`, with `r ≥ 0`.

    Scaled, so that squares neither overflow nor underflow; the identity for `a = b = 0`.
    """
    scale = jnp.maximum(jnp.abs(a), jnp.abs(b))
    zero = scale == 0
    scale = jnp.where(zero, 1, scale)
    a, b = a / scale, b / scale
    r = jnp.sqrt(jnp.where(zero, 1, a * a + b * b))
    return jnp.where(zero, 1, a / r), b / r, jnp.where(zero, 0, r * scale)
