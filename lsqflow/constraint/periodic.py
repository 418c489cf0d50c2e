"""Periodic models."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .. import _tree as tree
from .._jax import known
from .base import AbstractConstraint, largest_violation
from .inputs import as_numbers, require_function, take
from .symmetry import scaled


class Periodic(AbstractConstraint):
    """`f(θ, x + p) = f(θ, x)`, at points given once or at each step.

    The residual is the difference of the two sides. It is zero if and only if the model
    repeats itself at these points. `violation` is the largest difference, in absolute
    value. With `lf.Sampled` the points are fresh at each step.

    ```python
    lf.Periodic(predict, 1.0, jnp.linspace(0, 1, 32)[:, None])
    ```

    **Shapes:** the residual is like the output of the model. With several shifts, it
    has an axis of shifts in front. Its norm is the root mean square of the difference.

    **Cost:** one evaluation of the model, and one more for each shift.
    """

    fn: Callable[[Any, Any], PyTree[Array]]
    period: Array
    points: Float[Array, "batch *point"] | None

    def __init__(
        self,
        fn: Callable[[Any, Any], PyTree[Array]],
        period: Any,
        points: Any = None,
    ) -> None:
        """**Arguments:**

        - `fn`: the model, `fn(params, x)` on a batch of points.
        - `period`: p, a scalar that is added to every coordinate; a shift of shape
            `(d,)`, for points of shape `(..., d)`; or several of them, of shape
            `(shifts, d)`. For a box that repeats in each direction, it is
            `jnp.diag(sides)`.
        - `points`: the points; by default the first further argument of each step.

        **Raises:** `ValueError` if the shapes do not fit, or all periods are zero;
        `TypeError` if there are no points, or they are not floating-point.
        """
        require_function(fn, "fn", "Periodic", "lambda params, x: ...")
        self.fn = fn
        self.period = as_numbers(period, "period", "Periodic")
        self.points = (
            None if points is None else as_numbers(points, "points", "Periodic")
        )
        values = known(self.period)
        if self.period.ndim > 2 or (values is not None and not np.any(values)):
            raise ValueError(
                "`period` must be a scalar, a shift or a matrix with a shift in each "
                f"row, and not zero; got {period}."
            )

    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        """`f(θ, x + p) − f(θ, x)`."""
        return scaled(self._jumps(params, args))

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        """The largest jump, in absolute value."""
        return largest_violation(self._jumps(params, args))

    def _jumps(self, params: PyTree[Array], args: tuple[Any, ...]) -> PyTree[Array]:
        x = self.points
        if x is None:
            (x,) = take(args, ("points",), "`lsqflow.Periodic`")
        x = jnp.asarray(x)
        tree.require_inexact(x, "`lsqflow.Periodic`")
        period = self.period.astype(x.dtype)
        if period.ndim and (x.ndim < 2 or x.shape[-1] != period.shape[-1]):
            raise ValueError(
                f"A period of shape {period.shape} needs points of shape (..., "
                f"{period.shape[-1]}); got {x.shape}."
            )
        once = self.fn(params, x)
        again = lambda p: tree.sub(
            self.fn(params, x + (jnp.broadcast_to(p, x.shape) if p.ndim else p)), once
        )
        return jax.vmap(again)(period) if period.ndim == 2 else again(period)
