"""Convolution of signals, images and volumes with a kernel."""

import itertools
import operator
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from ..._tree import Structure
from ..base import AbstractOperator
from .circulant import convolve, correlate, fast_lengths, require_fft_dtype, spectrum
from .grid import (
    Shape,
    Widths,
    parse_dtype,
    parse_shape,
    real_dtype,
    require_choice,
    windowed_sum,
    windowed_sum_transposed,
)
from .padding import BOUNDARIES, Boundary, pad, pad_transposed

# Up to here a sum over the kernel's entries is faster than two FFTs, on a CPU for
# images of 512 × 512 and volumes of 48³.
_DIRECT = 64
# Above, a sum written out would take seconds to compile.
_WRITTEN_OUT = 256


class Convolution(AbstractOperator):
    r"""Convolution with a kernel of one to three dimensions.

    $$y_i = \sum_j k_j\, x_{i + o - j}$$

    over the last axes of `x`, as many as the kernel has; the axes before them are a
    batch. The kernel is flipped, as in `numpy.convolve` and `scipy.ndimage.convolve`,
    and is a leaf: solutions are differentiable with respect to it.

    | `mode` | size of `y` | offset `o` |
    |---|---|---|
    | `"same"` | `n` | `k // 2`, the centre in `scipy.ndimage.convolve` |
    | `"full"` | `n + k - 1` | `0` |
    | `"valid"` | `n - k + 1` | `k - 1` |

    What lies beyond `x` is the rule `boundary`, one of those of [`lsqflow.Padding`][];
    `"valid"` never looks there. The transpose is exact for all rules.

    **Cost:** with `method="direct"` one multiplication for each entry of `y` and of the
    kernel; with `"fft"` two FFTs, of real numbers if the array is real. Both are true
    of the transpose as well. The kernel's FFT is computed once a solve.
    """

    may_call_back = False

    kernel: Inexact[Array, "..."]
    shape: Shape = eqx.field(static=True)
    mode: Literal["same", "full", "valid"] = eqx.field(static=True)
    boundary: Boundary = eqx.field(static=True)
    method: Literal["fft", "direct"] = eqx.field(static=True)
    given_dtype: Any = eqx.field(static=True)

    def __init__(
        self,
        kernel: Inexact[Array, "..."],
        shape: int | tuple[int, ...],
        *,
        mode: Literal["same", "full", "valid"] = "same",
        boundary: Boundary = "zero",
        method: Literal["auto", "fft", "direct"] = "auto",
        dtype: Any = None,
    ) -> None:
        """**Arguments:**

        - `kernel`: an array of one to three dimensions.
        - `shape`: the shape of `x`, with at least as many dimensions.
        - `mode`, `boundary`: see above.
        - `method`: `"auto"` is direct for kernels of up to 64 entries.
        - `dtype`: that of `x`; by default the kernel's. A real kernel may be applied to
            complex arrays.

        **Raises:** `ValueError` if shapes do not fit or for an unknown option;
        `TypeError` for dtypes that do not fit, and for half precision with `"fft"`.
        """
        require_choice(mode, ("same", "full", "valid"), "modes", "`Convolution`")
        require_choice(boundary, BOUNDARIES, "boundaries", "`Convolution`")
        require_choice(method, ("auto", "fft", "direct"), "methods", "`Convolution`")
        self.kernel = kernel
        self.shape = parse_shape(shape, "`Convolution`")
        self.mode = mode
        self.boundary = boundary
        self.given_dtype = (
            None if dtype is None else parse_dtype(dtype, "`Convolution`")
        )
        size = jnp.size(kernel)
        self.method = (
            method if method != "auto" else "direct" if size <= _DIRECT else "fft"
        )
        if not 1 <= jnp.ndim(kernel) <= min(3, len(self.shape)) or size == 0:
            raise ValueError(
                "The kernel of a `Convolution` must have one to three dimensions, at "
                "most as many as the array it is applied to, and must not be empty; "
                f"got kernel {jnp.shape(kernel)} for an array {self.shape}."
            )
        if mode == "valid" and min(self._out_shape()[-jnp.ndim(kernel) :]) < 1:
            raise ValueError(
                "A `Convolution` with mode='valid' needs an array at least as large as "
                f"the kernel; got kernel {kernel.shape} for an array {self.shape}."
            )
        fits = (self._dtype, real_dtype(self._dtype))
        if kernel.dtype not in fits:
            raise TypeError(
                f"A kernel of dtype {kernel.dtype} does not map arrays of dtype "
                f"{self._dtype} to arrays of the same. Convert one to the other."
            )
        if self.method == "fft":
            require_fft_dtype(self._dtype, "`Convolution` with method='fft'")

    def mv(self, vector: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        if self._periodic:
            return convolve(self._eigenvalues(), vector, self._lengths())
        padded = pad(vector, self._widths(), self.boundary)
        if self.method == "direct":
            return self._direct(padded)
        circular = convolve(self._eigenvalues(), padded, self._lengths())
        first = self._full(tuple(k - 1 for k in self.kernel.shape), 0)
        last = tuple(map(operator.add, first, self._out_shape()))
        return jax.lax.slice(circular, first, last)

    def rmv(self, vector: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        if self._periodic:
            return correlate(self._eigenvalues(), vector, self._lengths())
        if self.method == "direct":
            padded = self._direct_transposed(vector)
        else:
            before = self._full(tuple(k - 1 for k in self.kernel.shape), 0)
            shifted = jnp.pad(vector, [(n, 0) for n in before])
            circular = correlate(self._eigenvalues(), shifted, self._lengths())
            padded = jax.lax.slice(circular, (0,) * circular.ndim, self._padded_shape())
        return pad_transposed(padded, self._widths(), self.boundary, self.shape)

    def _direct(self, padded: Array) -> Array:
        if self.kernel.size <= _WRITTEN_OUT:
            return windowed_sum(padded, *self._terms(), self._out_shape())
        d = self.kernel.ndim
        flipped = jnp.flip(self.kernel.astype(padded.dtype))
        out = jax.lax.conv_general_dilated(
            padded.reshape(-1, 1, *padded.shape[-d:]),
            flipped.reshape(1, 1, *flipped.shape),
            window_strides=(1,) * d,
            padding="VALID",
            precision=jax.lax.Precision.HIGHEST,
        )
        return out.reshape(self._out_shape())

    def _direct_transposed(self, vector: Array) -> Array:
        shape = self._padded_shape()
        if self.kernel.size <= _WRITTEN_OUT:
            return windowed_sum_transposed(vector, *self._terms(), shape)
        like = jax.ShapeDtypeStruct(shape, vector.dtype)
        return jax.linear_transpose(self._direct, like)(vector)[0]

    def _terms(self) -> tuple[list[Shape], list[Array]]:
        """The valid convolution as a sum over windows of the padded array."""
        places = itertools.product(*(range(k - 1, -1, -1) for k in self.kernel.shape))
        offsets = [self._full(place, 0) for place in places]
        weights = self.kernel.astype(self._dtype).ravel()
        return offsets, list(jnp.unstack(weights))

    @property
    def _dtype(self) -> Any:
        return self.kernel.dtype if self.given_dtype is None else self.given_dtype

    @property
    def _periodic(self) -> bool:
        """Whether the convolution is circular at the size of the array itself."""
        sizes = self.shape[-self.kernel.ndim :]
        return (
            (self.method, self.mode, self.boundary) == ("fft", "same", "wrap")
            and all(map(operator.le, self.kernel.shape, sizes))
        )  # fmt: skip

    def _full(self, of_kernel_axes: tuple[Any, ...], of_batch_axes: Any) -> Any:
        batch = len(self.shape) - len(of_kernel_axes)
        return (of_batch_axes,) * batch + of_kernel_axes

    def _widths(self) -> Widths:
        sizes = self.kernel.shape
        widths = {
            "same": tuple(((k - 1) // 2, k // 2) for k in sizes),
            "full": tuple((k - 1, k - 1) for k in sizes),
            "valid": ((0, 0),) * len(sizes),
        }
        return self._full(widths[self.mode], (0, 0))

    def _padded_shape(self) -> Shape:
        return tuple(
            n + sum(width) for n, width in zip(self.shape, self._widths(), strict=True)
        )

    def _out_shape(self) -> Shape:
        lost = self._full(tuple(k - 1 for k in self.kernel.shape), 0)
        return tuple(map(operator.sub, self._padded_shape(), lost))

    def _lengths(self) -> Shape:
        d = self.kernel.ndim
        if self._periodic:
            return self.shape[-d:]
        return fast_lengths(self._padded_shape()[-d:])

    def _eigenvalues(self) -> Array:
        lengths, kernel = self._lengths(), self.kernel.astype(self._dtype)
        if self._periodic:
            sizes = zip(lengths, kernel.shape, strict=True)
            kernel = jnp.pad(kernel, [(0, n - k) for n, k in sizes])
            shifts = tuple(-(k // 2) for k in self.kernel.shape)
            kernel = jnp.roll(kernel, shifts, tuple(range(kernel.ndim)))
        return spectrum(kernel, lengths)

    def as_matrix(self) -> Inexact[Array, "rows columns"]:
        """The matrix, without FFTs, which a CPU cannot hand on to a factorisation."""
        if self.method == "direct":
            return super().as_matrix()
        options = {"mode": self.mode, "boundary": self.boundary, "dtype": self._dtype}
        direct = Convolution(self.kernel, self.shape, method="direct", **options)
        return direct.as_matrix()

    def in_structure(self) -> Structure:
        return jax.ShapeDtypeStruct(self.shape, self._dtype)

    def out_structure(self) -> Structure:
        return jax.ShapeDtypeStruct(self._out_shape(), self._dtype)
