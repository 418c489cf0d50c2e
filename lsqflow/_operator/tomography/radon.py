"""The Radon transform of images: parallel-beam tomography."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Inexact

from ..._tree import Structure
from ..base import AbstractOperator
from .joseph import Grid, project, spread


class Radon(AbstractOperator):
    r"""Line integrals of an image: its parallel projections at given angles.

    With $X$ the column and $Y$ the row of a pixel, counted from `centre`, it is seen at
    angle $\theta_a$ by the detectors near $X \cos\theta_a - Y \sin\theta_a + h_a$:

    $$
    (A v)_{ak} = \sum_{Y, X} \frac{1}{c_a}
        \Lambda\Bigl(\frac{t_k - h_a - X \cos\theta_a + Y \sin\theta_a}{c_a}\Bigr)
        v_{YX},
    \qquad \Lambda(u) = \max(0, 1 - |u|),
    \quad c_a = \max(|\cos\theta_a|, |\sin\theta_a|),
    $$

    where $h_a$ is the `shift` and $t_k$ = `spacing` · (k − `num_detectors` // 2). This
    is Joseph's method: a ray steps from row to row (or from column to column, where it
    is nearer to those) and interpolates linearly in each.

    From images `(*batch, rows, columns)` to sinograms
    `(*batch, num_angles, num_detectors)`, pixel values times pixel widths. A sinogram
    of an image with the default `centre` is `skimage.transform.radon(image, theta,
    circle=False).T` but for the interpolation, with `theta` in **radians** here
    (`jnp.deg2rad`); `num_detectors=rows` is its `circle=True` of a square image.

    Either product costs `num_angles` times a pass over the image, with two gathers for
    a ray and row (`mv`) or a pixel (`rmv`); neither scatters. Memory is that of image,
    sinogram and one projection's interpolation. Derivatives with respect to `angles`
    and `shift` are those of the interpolation: exact, and piecewise continuous.

    ??? cite "Reference"

        ```bibtex
        @article{joseph1982improved,
          author  = {Joseph, Peter M.},
          title   = {An improved algorithm for reprojecting rays through pixel images},
          journal = {IEEE Transactions on Medical Imaging},
          volume  = {1},
          number  = {3},
          pages   = {192--196},
          year    = {1982},
        }
        ```
    """

    may_call_back = False

    angles: Float[Array, " angles"]
    shift: Float[Array, " angles"] | Float[Array, ""] | None
    shape: tuple[int, ...] = eqx.field(static=True)
    num_detectors: int = eqx.field(static=True)
    spacing: float = eqx.field(static=True)
    centre: tuple[float, float] = eqx.field(static=True)
    is_complex: bool = eqx.field(static=True)

    def __init__(
        self,
        angles: ArrayLike | Sequence[float],
        shape: Sequence[int],
        *,
        num_detectors: int | None = None,
        spacing: float = 1.0,
        centre: tuple[float, float] | None = None,
        shift: ArrayLike | None = None,
        dtype: Any = None,
    ) -> None:
        """**Arguments:**

        - `angles`: in radians. At 0 each detector sums a column; from there they turn
            counter-clockwise around the image, as it is displayed with row 0 on top.
        - `shape`: of the image, `(*batch, rows, columns)`: a stack of slices is
            projected slice by slice.
        - `num_detectors`: detectors of a projection. The default sees the whole image:
            √2 times its longer side.
        - `spacing`: distance between detectors, in pixels.
        - `centre`: row and column of the rotation axis, by default
            `(rows // 2, columns // 2)`.
        - `shift`: where the axis is seen, in pixels from detector `num_detectors // 2`;
            one number or one for each angle. `None` is 0, and is not differentiated.
        - `dtype`: of the images, by default that of the angles; may be complex.

        **Raises:** `TypeError` if angles are not floating point; `ValueError` if they
        are not one-dimensional, `shape` has less than two dimensions, or sizes are not
        positive.
        """
        self.angles = _angles(angles, dtype)
        self.shift = _shift(shift, self.angles)
        self.shape = tuple(int(n) for n in shape)
        if len(self.shape) < 2 or min(self.shape) < 1:
            raise ValueError(
                "`shape` must be `(*batch, rows, columns)`, of at least two positive "
                f"sizes; got {tuple(shape)}."
            )
        self.spacing = float(spacing)
        if not 0 < self.spacing < math.inf:
            raise ValueError(
                f"`spacing` is a distance in pixels and positive; got {spacing}."
            )
        rows, columns = self.shape[-2:]
        if num_detectors is None:
            num_detectors = math.ceil(math.sqrt(2) * max(rows, columns) / self.spacing)
        if num_detectors < 1:
            raise ValueError(f"`num_detectors` must be positive; got {num_detectors}.")
        self.num_detectors = num_detectors
        y, x = (rows // 2, columns // 2) if centre is None else centre
        self.centre = float(y), float(x)
        self.is_complex = dtype is not None and bool(
            jnp.issubdtype(dtype, jnp.complexfloating)
        )

    def mv(
        self, vector: Inexact[Array, "*batch rows columns"]
    ) -> Inexact[Array, "*batch angles detectors"]:
        return self._slicewise(project, vector)

    def rmv(
        self, vector: Inexact[Array, "*batch angles detectors"]
    ) -> Inexact[Array, "*batch rows columns"]:
        return self._slicewise(spread, vector)

    def _slicewise(self, product: Callable[..., Array], vector: Array) -> Array:
        """A real product with each slice, of the real and the imaginary part."""
        rows, columns = self.shape[-2:]
        grid = Grid((rows, columns), self.num_detectors, self.spacing, self.centre)
        shift = jnp.zeros((), self.angles.dtype) if self.shift is None else self.shift
        pose = self.angles, jnp.broadcast_to(shift, self.angles.shape)
        parts = (vector.real, vector.imag) if self.is_complex else (vector,)
        slices = jnp.stack(parts).reshape(-1, *vector.shape[-2:])
        out = jax.lax.map(lambda v: product(grid, (0, 0), pose, v), slices)
        out = out.reshape(len(parts), *self.shape[:-2], *out.shape[1:])
        return jax.lax.complex(*out) if self.is_complex else out[0]

    def in_structure(self) -> Structure:
        return jax.ShapeDtypeStruct(self.shape, self._dtype())

    def out_structure(self) -> Structure:
        shape = (*self.shape[:-2], self.angles.shape[0], self.num_detectors)
        return jax.ShapeDtypeStruct(shape, self._dtype())

    def _dtype(self) -> Any:
        real = self.angles.dtype
        return np.result_type(real, np.complex64) if self.is_complex else real

    def linearise(self) -> AbstractOperator:
        # The weights of all angles would be `num_angles` images.
        return self

    def conj(self) -> AbstractOperator:
        return self


def _angles(angles: Any, dtype: Any) -> Array:
    angles = jnp.asarray(angles)
    if not jnp.issubdtype(angles.dtype, jnp.floating):
        raise TypeError(
            f"`angles` must be real floating-point numbers; got dtype {angles.dtype}. "
            "They are in radians: `jnp.deg2rad` makes them from degrees."
        )
    if angles.ndim != 1:
        raise ValueError(
            f"`angles` must be one-dimensional; got shape {angles.shape}. Use "
            "`jax.vmap` for several sets of angles."
        )
    return angles if dtype is None else angles.astype(jnp.finfo(dtype).dtype)


def _shift(shift: Any, angles: Array) -> Array | None:
    if shift is None:
        return None
    shift = jnp.asarray(shift, angles.dtype)
    if shift.shape not in {(), angles.shape}:
        raise ValueError(
            f"`shift` must be one number or one for each angle, of shape {angles.shape}"
            f"; got shape {shift.shape}."
        )
    return shift
