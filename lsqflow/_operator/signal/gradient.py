"""Differences along several axes: gradients and Laplacians."""

import functools as ft
from typing import Any, Literal

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Inexact

from ..._tree import Structure
from ..base import AbstractOperator
from .grid import Shape, parse_axes, parse_dtype, parse_shape
from .padding import Boundary
from .stencil import Difference, Kind, spacings


class Gradient(AbstractOperator):
    r"""The gradient on a grid: a tuple with the first difference along each axis.

    $$y = \left(\frac{\partial x}{\partial t_1}, \dots,
    \frac{\partial x}{\partial t_d}\right)$$

    By default `Aᴴ A` is the negative Laplacian with a Neumann condition; forward
    differences that end in a zero, as in total variation.

    **Cost:** that of a [`lsqflow.Difference`][] for each axis.
    """

    may_call_back = False

    differences: tuple[Difference, ...]

    def __init__(
        self,
        shape: int | tuple[int, ...],
        axes: int | tuple[int, ...] | None = None,
        *,
        kind: Kind = "forward",
        boundary: Literal[Boundary, "none"] = "edge",
        spacing: Any = 1.0,
        dtype: Any = None,
    ) -> None:
        """**Arguments:**

        - `shape`: the shape of the arrays.
        - `axes`: along which to differentiate; all of them by default.
        - `kind`, `boundary`, `dtype`: as in [`lsqflow.Difference`][]. With
            `boundary="none"` the arrays of the tuple differ in shape.
        - `spacing`: the distance of grid points, a number or one for each axis; a leaf.

        **Raises:** as [`lsqflow.Difference`][].
        """
        options = {"kind": kind, "boundary": boundary, "order": 1}
        self.differences = _along_axes(shape, axes, spacing, dtype, options)

    def mv(self, vector: Inexact[Array, "..."]) -> tuple[Inexact[Array, "..."], ...]:
        return tuple(difference.mv(vector) for difference in self.differences)

    def rmv(self, vector: tuple[Inexact[Array, "..."], ...]) -> Inexact[Array, "..."]:
        pairs = zip(self.differences, vector, strict=True)
        return ft.reduce(jnp.add, (difference.rmv(u) for difference, u in pairs))

    def in_structure(self) -> Structure:
        return self.differences[0].in_structure()

    def out_structure(self) -> Structure:
        return tuple(difference.out_structure() for difference in self.differences)

    def linearise(self) -> AbstractOperator:
        return self


class Laplacian(AbstractOperator):
    r"""The sum of the second differences along the axes of a grid.

    $$y = \sum_a \frac{x_{i + e_a} - 2 x_i + x_{i - e_a}}{h_a^2}$$

    The matrix is symmetric for the boundaries `"zero"`, `"edge"`, `"symmetric"` and
    `"wrap"`, negative definite for `"zero"`, and singular for the other three: the
    Laplacian of a constant is 0.

    **Cost:** three multiplications for each entry and each axis.
    """

    may_call_back = False

    differences: tuple[Difference, ...]

    def __init__(
        self,
        shape: int | tuple[int, ...],
        axes: int | tuple[int, ...] | None = None,
        *,
        boundary: Literal[Boundary, "none"] = "zero",
        spacing: Any = 1.0,
        dtype: Any = None,
    ) -> None:
        """**Arguments:**

        - `shape`: the shape of the arrays.
        - `axes`: over which to sum; all of them by default.
        - `boundary`: as in [`lsqflow.Difference`][]; with `"none"` the result is
            smaller than `x` by one point at each end of these axes.
        - `spacing`: the distance of grid points, a number or one for each axis; a leaf.
        - `dtype`: that of the arrays; by default JAX's own.

        **Raises:** as [`lsqflow.Difference`][].
        """
        options = {"kind": "central", "boundary": boundary, "order": 2}
        self.differences = _along_axes(shape, axes, spacing, dtype, options)

    def mv(self, vector: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        parts = ((d.mv(vector), margin) for d, margin in self._parts())
        return ft.reduce(jnp.add, (_widened(y, margin, -1) for y, margin in parts))

    def rmv(self, vector: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        parts = ((d, _widened(vector, margin, 1)) for d, margin in self._parts())
        return ft.reduce(jnp.add, (d.rmv(u) for d, u in parts))

    def _parts(self) -> list[tuple[Difference, Shape]]:
        """The differences, and by how much they are to be cut along other axes."""
        target = self.out_structure().shape
        return [
            (d, tuple((n - m) // 2 for n, m in zip(d.out_shape, target, strict=True)))
            for d in self.differences
        ]

    def in_structure(self) -> Structure:
        return self.differences[0].in_structure()

    def out_structure(self) -> Structure:
        shape = tuple(
            map(min, zip(*(d.out_shape for d in self.differences), strict=True))
        )
        return jax.ShapeDtypeStruct(shape, self.differences[0].dtype)

    def tags(self) -> frozenset[object]:
        boundary = self.differences[0].boundary
        if boundary == "zero":
            return frozenset((lx.symmetric_tag, lx.negative_semidefinite_tag))
        symmetric = boundary in ("edge", "symmetric", "wrap")
        return frozenset((lx.symmetric_tag,) if symmetric else ())

    def linearise(self) -> AbstractOperator:
        return self


def _widened(x: Array, margin: Shape, sign: int) -> Array:
    """Zeros of some width around an array; with a negative sign, cut off."""
    config = [(sign * width, sign * width, 0) for width in margin]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)


def _along_axes(
    shape: Any, axes: Any, spacing: Any, dtype: Any, options: dict[str, Any]
) -> tuple[Difference, ...]:
    sizes = parse_shape(shape, "a gradient or Laplacian")
    numbers = parse_axes(axes, len(sizes), "a gradient or Laplacian")
    dtype = parse_dtype(dtype, "A gradient or Laplacian")
    h = spacings(spacing, len(numbers), dtype, "a gradient or Laplacian")
    return tuple(
        Difference(sizes, axis, spacing=h[i], dtype=dtype, **options)
        for i, axis in enumerate(numbers)
    )
