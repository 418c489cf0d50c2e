"""Bounds of norms, as users give them and as smooth residuals."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._jax import known
from .inputs import described


def quadratic_excess(square: Array, bound: Float[Array, ""]) -> Array:
    """`(s − b²) / 2b`: near the bound the excess √s − b, and smooth at zero."""
    bound = bound.astype(square.dtype)
    return (square - bound**2) / (2 * bound)


def as_bound(bound: Any, owner: str) -> Float[Array, ""]:
    """A bound as an array, or an error that says why it cannot be one."""
    number = isinstance(bound, int | float | np.ndarray | np.generic | jax.Array)
    array = jnp.asarray(bound if number and not isinstance(bound, bool) else jnp.nan)
    values = known(array)
    if array.shape != () or (values is not None and not 0 < values < math.inf):
        raise ValueError(
            f"The bound of {owner} must be a positive number; got {described(bound)}. "
            "For a bound of zero, state an equation: `lsqflow.Fixed` or "
            "`lsqflow.Equality`."
        )
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return array if floating else array.astype(jnp.result_type(float))
