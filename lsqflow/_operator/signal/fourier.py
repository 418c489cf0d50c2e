"""Discrete Fourier transforms."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Inexact

from ..._tree import Structure
from ..base import AbstractOperator
from .circulant import require_fft_dtype
from .grid import Shape, parse_axes, parse_dtype, parse_shape, require_choice

Norm = Literal["ortho", "backward", "forward"]


class FFT(AbstractOperator):
    r"""The discrete Fourier transform along some axes, as `numpy.fft.fftn`.

    $$y_k = s \sum_n e^{-2 \pi i k n / N}\, x_n$$

    with `s` being `1/√N` for `norm="ortho"`, `1` for `"backward"` and `1/N` for
    `"forward"`; `N` is the product of the sizes along the axes. The matrix is
    symmetric; for `"ortho"` it is unitary too, so that its inverse is its adjoint `.H`.


    With `real=True` the vectors are real and only the half of the spectrum is returned
    that is not the conjugate of the rest, as by `numpy.fft.rfftn`. This is linear over
    the real numbers only. Its transpose is that of JAX, `Re Aᵀu`; with it
    `Re ⟨u, A v⟩ = ⟨Aᴴu, v⟩`, which is what least squares over real vectors needs.

    **Cost:** one FFT a product.
    """

    may_call_back = False

    shape: Shape = eqx.field(static=True)
    axes: Shape = eqx.field(static=True)
    norm: Norm = eqx.field(static=True)
    real: bool = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(
        self,
        shape: int | tuple[int, ...],
        axes: int | tuple[int, ...] | None = None,
        *,
        norm: Norm = "ortho",
        real: bool = False,
        dtype: Any = None,
    ) -> None:
        """**Arguments:**

        - `shape`: the shape of the arrays to be transformed.
        - `axes`: along which; all of them by default. The last one is halved by a real
            transform.
        - `norm`: the scale; see above.
        - `real`: whether to transform real arrays to half a spectrum.
        - `dtype`: that of the input: complex, or real if `real`; by default JAX's own.

        **Raises:** `ValueError` for a bad shape, axis or norm; `TypeError` for a dtype
        that does not fit `real`, or of half precision.
        """
        require_choice(norm, ("ortho", "backward", "forward"), "norms", "`FFT`")
        self.shape = parse_shape(shape, "`FFT`")
        self.axes = parse_axes(axes, len(self.shape), "`FFT`")
        self.norm = norm
        self.real = real
        self.dtype = parse_dtype(dtype, "`FFT`", float if real else complex)
        require_fft_dtype(self.dtype, "`FFT`")
        if jnp.issubdtype(self.dtype, jnp.complexfloating) == real:
            raise TypeError(
                f"`FFT` with real={real} transforms {'real' if real else 'complex'} "
                f"arrays; got dtype {self.dtype}. Pass `real={not real}`."
            )

    def mv(self, vector: Inexact[Array, "..."]) -> Complex[Array, "..."]:
        fft = jnp.fft.rfftn if self.real else jnp.fft.fftn
        return fft(vector, axes=self.axes, norm=self.norm)

    def rmv(self, vector: Complex[Array, "..."]) -> Inexact[Array, "..."]:
        return super().rmv(vector) if self.real else self.mv(vector)

    def adjoint_mv(self, vector: Complex[Array, "..."]) -> Inexact[Array, "..."]:
        if self.real:
            return super().adjoint_mv(vector)
        swapped = {"ortho": "ortho", "backward": "forward", "forward": "backward"}
        return jnp.fft.ifftn(vector, axes=self.axes, norm=swapped[self.norm])

    def as_matrix(self) -> Complex[Array, "rows columns"]:
        """The matrix, without FFTs, which a CPU cannot hand on to a factorisation."""
        matrix = np.ones((1, 1))
        for axis, size in enumerate(self.shape):
            factor = np.eye(size)
            if axis in self.axes:
                halved = self.real and axis == self.axes[-1]
                fft = np.fft.rfft if halved else np.fft.fft
                factor = fft(factor, axis=0, norm=self.norm)
            matrix = np.kron(matrix, factor)
        return jnp.asarray(matrix, self.out_structure().dtype)

    def in_structure(self) -> Structure:
        return jax.ShapeDtypeStruct(self.shape, self.dtype)

    def linearise(self) -> AbstractOperator:
        return self
