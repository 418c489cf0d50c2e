"""Values between the points of a regular grid."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from ..._tree import Structure
from ..base import AbstractOperator
from .grid import Shape, parse_dtype, parse_shape, real_dtype, require_choice
from .padding import BOUNDARIES, Boundary


def _nearest(t: Array) -> list[Array]:
    return [jnp.ones_like(t)]


def _linear(t: Array) -> list[Array]:
    return [1 - t, t]


def _cubic(t: Array) -> list[Array]:
    """Keys (1981), eq. 15: a = −1/2."""

    def near(s: Array) -> Array:
        return (1.5 * s - 2.5) * s * s + 1

    def far(s: Array) -> Array:
        return ((-0.5 * s + 2.5) * s - 4) * s + 2

    return [far(1 + t), near(t), near(1 - t), far(2 - t)]


# For each method: what to add before rounding down, the first grid point relative to
# the one found so, and the weights as functions of the distance from it.
_RULES: dict[str, tuple[float, int, Callable[[Array], list[Array]]]] = {
    "nearest": (0.5, 0, _nearest),
    "linear": (0.0, 0, _linear),
    "cubic": (0.0, -1, _cubic),
}


def _inside(index: Array, size: int, boundary: str) -> Array:
    """The grid point that stands for one beyond the boundary."""
    if boundary == "wrap":
        return jnp.mod(index, size)
    if boundary in ("reflect", "symmetric"):
        twice = int(boundary == "symmetric")  # whether the last value counts twice
        period = max(2 * (size - 1 + twice), 1)
        folded = jnp.mod(index, period)
        return jnp.minimum(folded, period - twice - folded)
    return jnp.clip(index, 0, size - 1)


class Interpolation(AbstractOperator):
    r"""The values of an array on a regular grid, at any points.

    $$y_p = \sum_i \prod_a w(t_{p, a} - i_a)\, x_i$$

    `w` is a box (`"nearest"`), a hat (`"linear"`) or the cubic of Keys (`"cubic"`,
    exact for quadratic functions); each is 1 at 0, so that values at grid points are
    kept.
    Points `t` are counted in grid points, from 0 on, as in
    `scipy.ndimage.map_coordinates`, and are a leaf: solutions are differentiable with
    respect to them for `"linear"` (almost everywhere) and `"cubic"`.

    **Cost:** a gather of `1`, `2ᵈ` or `4ᵈ` values a point; the transpose scatters as
    many. Their places and weights are computed once a solve.

    ??? cite "Reference"
        ```bibtex
        @article{keys1981cubic,
          author  = {Keys, Robert G.},
          title   = {Cubic convolution interpolation for digital image processing},
          journal = {IEEE Transactions on Acoustics, Speech, and Signal Processing},
          volume  = {29}, number = {6}, pages = {1153--1160}, year = {1981}
        }
        ```
    """

    may_call_back = False

    points: Float[Array, "*points dimensions"]
    shape: Shape = eqx.field(static=True)
    method: Literal["linear", "nearest", "cubic"] = eqx.field(static=True)
    boundary: Boundary = eqx.field(static=True)
    given_dtype: Any = eqx.field(static=True)

    def __init__(
        self,
        points: Float[Array, "*points dimensions"],
        shape: int | tuple[int, ...],
        *,
        method: Literal["linear", "nearest", "cubic"] = "linear",
        boundary: Boundary = "edge",
        dtype: Any = None,
    ) -> None:
        """**Arguments:**

        - `points`: one to three coordinates in the last axis, in units of the grid.
        - `shape`: the shape of the array; the points refer to its last axes, and those
            before them are a batch. The result has the shape of the batch, followed by
            that of the points.
        - `method`: see above.
        - `boundary`: what lies beyond the array, as in [`lsqflow.Padding`][].
        - `dtype`: that of the array; by default that of the points.

        **Raises:** `ValueError` if the points do not fit the shape, or for an unknown
        option; `TypeError` for a dtype of another precision than the points'.
        """
        require_choice(method, tuple(_RULES), "methods", "`Interpolation`")
        require_choice(boundary, BOUNDARIES, "boundaries", "`Interpolation`")
        self.points = points
        self.shape = parse_shape(shape, "`Interpolation`")
        self.method = method
        self.boundary = boundary
        self.given_dtype = (
            None if dtype is None else parse_dtype(dtype, "`Interpolation`")
        )
        d = points.shape[-1] if jnp.ndim(points) else 0
        if not 1 <= d <= min(3, len(self.shape)):
            raise ValueError(
                "The last axis of `points` must hold one to three coordinates, at most "
                f"as many as the array has axes; got points {jnp.shape(points)} for an "
                f"array {self.shape}."
            )
        if real_dtype(self._dtype) != points.dtype:
            raise TypeError(
                f"Points of dtype {points.dtype} need an array of that dtype, or "
                f"complex of the same precision; got {self._dtype}."
            )

    def mv(self, vector: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        places, weights = self._places_and_weights()
        flat = vector.reshape(*self._batch, -1)
        values = flat.at[..., places].get(mode="promise_in_bounds")
        weights = jnp.expand_dims(weights, range(len(self._batch)))
        return jnp.sum(values * weights.astype(vector.dtype), axis=-1)

    def _places_and_weights(
        self,
    ) -> tuple[Int[Array, "*points terms"], Float[Array, "*points terms"]]:
        """Where to look in the raveled array, and how much of it to take."""
        sizes = self.shape[len(self._batch) :]
        places = jnp.zeros((*self.points.shape[:-1], 1), int)
        weights = jnp.ones((*self.points.shape[:-1], 1), self.points.dtype)
        for axis, size in enumerate(sizes):
            index, weight = self._along(self.points[..., axis], size)
            places = places[..., :, None] * size + index[..., None, :]
            weights = weights[..., :, None] * weight[..., None, :]
            places, weights = (x.reshape(*x.shape[:-2], -1) for x in (places, weights))
        return places, weights

    def _along(self, t: Array, size: int) -> tuple[Array, Array]:
        shift, first, rule = _RULES[self.method]
        base = jnp.floor(t + shift)
        weight = jnp.stack(rule(t - base), axis=-1)
        steps = jnp.arange(first, first + weight.shape[-1])
        steps = jnp.expand_dims(steps, range(t.ndim))
        index = base.astype(steps.dtype)[..., None] + steps
        if self.boundary == "zero":
            weight = jnp.where((index >= 0) & (index < size), weight, 0)
        return _inside(index, size, self.boundary), weight

    @property
    def _batch(self) -> Shape:
        return self.shape[: len(self.shape) - self.points.shape[-1]]

    @property
    def _dtype(self) -> Any:
        return self.points.dtype if self.given_dtype is None else self.given_dtype

    def in_structure(self) -> Structure:
        return jax.ShapeDtypeStruct(self.shape, self._dtype)

    def out_structure(self) -> Structure:
        shape = (*self._batch, *self.points.shape[:-1])
        return jax.ShapeDtypeStruct(shape, self._dtype)
