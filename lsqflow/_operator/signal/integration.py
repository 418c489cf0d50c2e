"""Cumulative integrals on regular grids."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from ..._tree import Structure
from ..base import AbstractOperator
from .grid import Shape, parse_axes, parse_dtype, parse_shape, require_choice
from .stencil import spacings


class Integration(AbstractOperator):
    r"""The cumulative integral along one axis.

    | `rule` | result | |
    |---|---|---|
    | `"trapezoid"` | $y_i = h \sum_{j < i} (x_j + x_{j + 1}) / 2$ | `scipy.integrate.cumulative_trapezoid(x, dx=h, initial=0)` |
    | `"rectangle"` | $y_i = h \sum_{j \le i} x_j$ | `numpy.cumsum(x) * h` |

    The result has the shape of `x`. The first is singular, as `y` begins with 0; the
    second is inverted by a backward [`lsqflow.Difference`][] with boundary `"zero"`.

    **Cost:** a cumulative sum, also of the transpose.
    """  # noqa: E501

    may_call_back = False

    spacing: Float[Array, ""]
    shape: Shape = eqx.field(static=True)
    axis: int = eqx.field(static=True)
    rule: Literal["trapezoid", "rectangle"] = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(
        self,
        shape: int | tuple[int, ...],
        axis: int = -1,
        *,
        rule: Literal["trapezoid", "rectangle"] = "trapezoid",
        spacing: Any = 1.0,
        dtype: Any = None,
    ) -> None:
        """**Arguments:**

        - `shape`: the shape of the arrays.
        - `axis`: along which to integrate.
        - `rule`: see above.
        - `spacing`: the distance `h` of grid points, a number; a leaf.
        - `dtype`: that of the arrays; by default JAX's own.

        **Raises:** `ValueError` for a bad shape, axis, rule or spacing; `TypeError` for
        a dtype that is not floating point.
        """
        require_choice(rule, ("trapezoid", "rectangle"), "rules", "`Integration`")
        self.shape = parse_shape(shape, "`Integration`")
        (self.axis,) = parse_axes(axis, len(self.shape), "`Integration`")
        self.rule = rule
        self.dtype = parse_dtype(dtype, "`Integration`")
        self.spacing = spacings(spacing, 1, self.dtype, "`Integration`")[0]

    def mv(self, vector: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        h = self.spacing.astype(vector.dtype)
        if self.rule == "rectangle":
            return h * jnp.cumsum(vector, self.axis)
        n = self.shape[self.axis]
        first, last = (
            jax.lax.slice_in_dim(vector, i, n - 1 + i, axis=self.axis) for i in (0, 1)
        )
        sums = jnp.cumsum(first + last, self.axis)
        return (
            h
            * 0.5
            * jnp.pad(sums, [(int(i == self.axis), 0) for i in range(sums.ndim)])
        )

    def in_structure(self) -> Structure:
        return jax.ShapeDtypeStruct(self.shape, self.dtype)

    def out_structure(self) -> Structure:
        return self.in_structure()

    def linearise(self) -> AbstractOperator:
        return self
