"""Finite differences along an axis of a regular grid."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from ..._tree import Structure
from ..base import AbstractOperator
from .grid import (
    Shape,
    Widths,
    parse_axes,
    parse_dtype,
    parse_shape,
    real_dtype,
    require_choice,
    windowed_sum,
    windowed_sum_transposed,
)
from .padding import BOUNDARIES, Boundary, pad, pad_transposed

Kind = Literal["forward", "backward", "central"]


def spacings(spacing: Any, count: int, dtype: Any, owner: str) -> Float[Array, " axes"]:
    """Grid spacings, one an axis, in the precision of `dtype`."""
    given = jnp.asarray(spacing, real_dtype(dtype))
    if given.shape not in ((), (count,)):
        raise ValueError(
            f"The spacing of {owner} must be a number, or {count} of them, one for "
            f"each axis; got shape {given.shape}."
        )
    return jnp.broadcast_to(given, (count,))


class Difference(AbstractOperator):
    r"""A finite difference along one axis: an approximate derivative.

    | `kind` | first order | order `p` |
    |---|---|---|
    | `"forward"` | $(x_{i+1} - x_i) / h$ | applied `p` times |
    | `"backward"` | $(x_i - x_{i-1}) / h$ | applied `p` times |
    | `"central"` | $(x_{i+1} - x_{i-1}) / 2h$ | $(x_{i+1} - 2 x_i + x_{i-1}) / h^2$ applied `p // 2` times, and the first order once if `p` is odd |

    With `boundary="none"` the result has only those entries that lie within `x`, as
    `numpy.diff` has; with a rule of [`lsqflow.Padding`][] it has the size of `x`:
    `"zero"` is a Dirichlet, `"edge"` a Neumann and `"wrap"` a periodic condition.

    **Cost:** a multiplication for each entry and each point of the stencil, also in the
    transpose.
    """  # noqa: E501

    may_call_back = False

    spacing: Float[Array, ""]
    shape: Shape = eqx.field(static=True)
    axis: int = eqx.field(static=True)
    order: int = eqx.field(static=True)
    kind: Kind = eqx.field(static=True)
    boundary: Literal[Boundary, "none"] = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(
        self,
        shape: int | tuple[int, ...],
        axis: int = -1,
        *,
        order: int = 1,
        kind: Kind = "forward",
        boundary: Literal[Boundary, "none"] = "none",
        spacing: Any = 1.0,
        dtype: Any = None,
    ) -> None:
        """**Arguments:**

        - `shape`: the shape of the arrays.
        - `axis`: along which to differentiate.
        - `order`: of the derivative, from 1 on.
        - `kind`, `boundary`: see above.
        - `spacing`: the distance `h` of grid points, a number; a leaf.
        - `dtype`: that of the arrays; by default JAX's own.

        **Raises:** `ValueError` for an unknown option, a spacing that is no scalar, or
        if no entry is left; `TypeError` for a dtype that is not floating point.
        """
        options = ("none", *BOUNDARIES)
        require_choice(
            kind, ("forward", "backward", "central"), "kinds", "`Difference`"
        )
        require_choice(boundary, options, "boundaries", "`Difference`")
        self.shape = parse_shape(shape, "`Difference`")
        (self.axis,) = parse_axes(axis, len(self.shape), "`Difference`")
        self.dtype = parse_dtype(dtype, "`Difference`")
        if order < 1:
            raise ValueError(f"`order` of `Difference` counts from 1; got {order!r}.")
        self.order = order
        self.kind = kind
        self.boundary = boundary
        self.spacing = spacings(spacing, 1, self.dtype, "`Difference`")[0]
        if self.out_shape[self.axis] < 1:
            raise ValueError(
                f"A difference of order {order} without values beyond the boundary "
                f"needs more than {self.shape[self.axis]} points along its axis. "
                "Choose a boundary other than 'none'."
            )

    def mv(self, vector: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        padded = pad(vector, self._widths(), self._rule)
        return self._scaled(windowed_sum(padded, *self._terms(), self.out_shape))

    def rmv(self, vector: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        widths, scaled = self._widths(), self._scaled(vector)
        padded = tuple(
            n + sum(width) for n, width in zip(self.shape, widths, strict=True)
        )
        out = windowed_sum_transposed(scaled, *self._terms(), padded)
        return pad_transposed(out, widths, self._rule, self.shape)

    @property
    def _rule(self) -> str:
        return "zero" if self.boundary == "none" else self.boundary

    def _scaled(self, x: Array) -> Array:
        return x * jax.lax.integer_pow(self.spacing, -self.order).astype(x.dtype)

    def _stencil(self) -> tuple[int, list[float]]:
        """Its first offset from the point of evaluation, and its coefficients."""
        odd = self.kind == "central" and self.order % 2 == 1
        power = self.order - odd
        signs = [(-1) ** (power - j) * math.comb(power, j) for j in range(power + 1)]
        if odd:
            signs = np.convolve(signs, [-0.5, 0, 0.5]).tolist()
        reach = len(signs) - 1
        first = {"forward": 0, "backward": -reach, "central": -(reach // 2)}
        return first[self.kind], [float(c) for c in signs]

    def _terms(self) -> tuple[list[Shape], list[float]]:
        _, coefficients = self._stencil()
        terms = [(self._along(j, 0), c) for j, c in enumerate(coefficients) if c != 0]
        return [offset for offset, _ in terms], [c for _, c in terms]

    def _widths(self) -> Widths:
        first, coefficients = self._stencil()
        needed = (-first, first + len(coefficients) - 1)
        return self._along((0, 0) if self.boundary == "none" else needed, (0, 0))

    def _along(self, of_axis: Any, of_others: Any) -> tuple[Any, ...]:
        axes = range(len(self.shape))
        return tuple(of_axis if i == self.axis else of_others for i in axes)

    @property
    def out_shape(self) -> Shape:
        """The shape of `A v`."""
        lost = len(self._stencil()[1]) - 1 - sum(self._widths()[self.axis])
        return tuple(
            n - m for n, m in zip(self.shape, self._along(lost, 0), strict=True)
        )

    def in_structure(self) -> Structure:
        return jax.ShapeDtypeStruct(self.shape, self.dtype)

    def out_structure(self) -> Structure:
        return jax.ShapeDtypeStruct(self.out_shape, self.dtype)

    def linearise(self) -> AbstractOperator:
        return self
