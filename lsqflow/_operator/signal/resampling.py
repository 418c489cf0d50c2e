"""Arrays on a finer or coarser grid."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from ..._tree import Structure
from ..base import AbstractOperator
from .grid import Shape, parse_dtype, parse_shape, require_choice

Method = Literal["nearest", "linear", "cubic", "lanczos3", "lanczos5"]
METHODS = ("nearest", "linear", "cubic", "lanczos3", "lanczos5")


class Resampling(AbstractOperator):
    r"""An array resampled to another shape, by `jax.image.resize`.

    Both grids cover the same extent: pixels are cells, and their values are those at
    the centres. With `antialias` a kernel is stretched where the new grid is coarser,
    so that all old values count. Beyond the boundary the kernel is cut and normalised.

    **Cost:** one product with a dense `new size × size` matrix for each axis that
    changes; a gather for `"nearest"`. The matrices are computed once a solve.
    """

    shape: Shape = eqx.field(static=True)
    new_shape: Shape = eqx.field(static=True)
    method: Method = eqx.field(static=True)
    antialias: bool = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(
        self,
        shape: int | tuple[int, ...],
        new_shape: int | tuple[int, ...],
        *,
        method: Method = "linear",
        antialias: bool = True,
        dtype: Any = None,
    ) -> None:
        """**Arguments:**

        - `shape`: the shape of the array.
        - `new_shape`: that of the result, with as many axes.
        - `method`: the kernel: the nearest value, a hat, the cubic of Keys, or the
            windowed sinc of Lanczos with 3 or 5 lobes.
        - `antialias`: whether to widen the kernel where the new grid is coarser.
        - `dtype`: that of the array; by default JAX's own.

        **Raises:** `ValueError` for an unknown method or shapes that do not fit;
        `TypeError` for a dtype that is not floating point.
        """
        require_choice(method, METHODS, "methods", "`Resampling`")
        self.shape = parse_shape(shape, "`Resampling`")
        self.new_shape = parse_shape(new_shape, "`Resampling`")
        if len(self.shape) != len(self.new_shape):
            raise ValueError(
                "`Resampling` keeps the number of axes; got shapes "
                f"{self.shape} and {self.new_shape}."
            )
        self.method = method
        self.antialias = antialias
        self.dtype = parse_dtype(dtype, "`Resampling`")

    def mv(self, vector: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        # JAX computes the weights in the dtype of the array, which must be real.
        if jnp.issubdtype(vector.dtype, jnp.complexfloating):
            parts = map(self._resize, (jnp.real(vector), jnp.imag(vector)))
            return jax.lax.complex(*parts)
        return self._resize(vector)

    def _resize(self, x: Array) -> Array:
        return jax.image.resize(
            x,
            self.new_shape,
            self.method,
            antialias=self.antialias,
            precision=jax.lax.Precision.HIGHEST,
        )

    def in_structure(self) -> Structure:
        return jax.ShapeDtypeStruct(self.shape, self.dtype)

    def out_structure(self) -> Structure:
        return jax.ShapeDtypeStruct(self.new_shape, self.dtype)
