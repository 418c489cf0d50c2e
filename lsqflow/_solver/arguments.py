"""The arguments of iterative solvers: what they mean, and what they may be."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

# The arguments are the same for every solver on the process, and so is their text.
ARGUMENTS = """**Arguments:**

- `rtol`: the relative tolerance. It has no unit. The solver stops when
    ‖b − A x‖ ≤ atol + rtol (‖A‖ ‖x‖ + ‖b‖), which solves a consistent system, or when
    ‖Aᴴ r − λ² x‖ ≤ atol + rtol ‖A‖ ‖r‖, which solves a least-squares problem. ‖A‖ is a
    running estimate. The default, None, is ε^¾ for the ε of the coarsest dtype:
    6.4e-6 in float32, 1.8e-12 in float64.
- `atol`: the absolute tolerance, by default 0. Both tests add it, so it has the unit
    of `b` in the first test, and that of `A` times `b` in the second.
- `max_steps`: the greatest number of steps, each a product with `A` and one with `Aᴴ`;
    an integer or a traced integer. The default, None, is ten times the smaller
    dimension of `A`. A solve that reaches it has failed.
- `conlim`: the solver gives up when its estimate of the condition number of `A` (with
    the damping) exceeds this number. The default, None, is 0.1 / ε: 8.4e5 in float32,
    4.5e14 in float64.
- `history`: how many of the last values of both residual norms to keep in
    `stats["history"]`; by default 0. They are what the recurrence knows, so they cost
    no products. A solve with fewer steps leaves NaN in front.

**Raises:** `TypeError` or `ValueError` if an argument is not such a number.
"""


def require_tolerance(name: str, value: Any) -> None:
    """Raise unless a tolerance is None, a number or a real scalar, and not negative."""
    if value is None and name != "atol":
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    array = isinstance(value, Array | np.ndarray | np.generic)
    if not number and not (array and value.shape == ()):
        raise TypeError(
            f"`{name}` must be a non-negative number, or a scalar array; got {value!r}."
        )
    if isinstance(value, int | float) and not value >= 0:
        raise ValueError(f"`{name}` must be non-negative; got {value}.")


def require_count(name: str, value: Any) -> None:
    """Raise unless a number of steps is an integer, or an array of one."""
    if value is None and name == "max_steps":
        return
    array = isinstance(value, Array) and jnp.issubdtype(value.dtype, jnp.integer)
    if isinstance(value, bool) or not (isinstance(value, int) or array):
        raise TypeError(
            f"`{name}` must be an integer{' or None' * (name == 'max_steps')}; got "
            f"{value!r}. Convert it with `int`."
        )
    if isinstance(value, int) and value < 0:
        raise ValueError(f"`{name}` must be non-negative; got {value}.")
