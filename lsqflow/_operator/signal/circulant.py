"""Circular convolution by FFT: circulant and Toeplitz matrices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Inexact

from ..._tree import Structure
from ..base import AbstractOperator
from .grid import Shape


def fast_lengths(sizes: Shape) -> Shape:
    """The least lengths from these sizes on for which an FFT is fast."""
    # SciPy imports its parts when they are used; its stub says this returns nothing.
    next_fast_length: Any = scipy.fft.next_fast_len
    return tuple(map(next_fast_length, sizes))


def require_fft_dtype(dtype: Any, owner: str) -> None:
    """Raise a `TypeError` for dtypes that have no FFT."""
    if jnp.dtype(dtype).name not in ("float32", "float64", "complex64", "complex128"):
        raise TypeError(
            f"{owner} works in 32 or 64 bits a real number, as FFTs do; got dtype "
            f"{jnp.dtype(dtype).name}. Convert it with `.astype(float)`."
        )


def _axes(lengths: Shape) -> Shape:
    return tuple(range(-len(lengths), 0))


def _is_real(x: Array) -> bool:
    return not jnp.issubdtype(x.dtype, jnp.complexfloating)


def spectrum(
    kernel: Inexact[Array, "..."], lengths: Shape
) -> Inexact[Array, " *frequencies"]:
    """The eigenvalues of the circular convolution with a kernel, zero-padded."""
    fft = jnp.fft.rfftn if _is_real(kernel) else jnp.fft.fftn
    return fft(kernel, s=lengths, axes=_axes(lengths))


def convolve(
    eigenvalues: Inexact[Array, " *frequencies"],
    x: Inexact[Array, "..."],
    lengths: Shape,
) -> Inexact[Array, "..."]:
    """The circular convolution `F⁻¹ D F x` along the last axes."""
    axes = _axes(lengths)
    if _is_real(x):
        product = _scale(eigenvalues, jnp.fft.rfftn(x, s=lengths, axes=axes))
        return jnp.fft.irfftn(product, s=lengths, axes=axes)
    product = _scale(eigenvalues, jnp.fft.fftn(x, s=lengths, axes=axes))
    return jnp.fft.ifftn(product, axes=axes)


def correlate(
    eigenvalues: Inexact[Array, " *frequencies"],
    u: Inexact[Array, "..."],
    lengths: Shape,
) -> Inexact[Array, "..."]:
    """Its transpose `F D F⁻¹ u`; two real FFTs for real arrays, as forwards."""
    if _is_real(u):
        return convolve(jnp.conj(eigenvalues), u, lengths)
    axes = _axes(lengths)
    padding = [(0, 0)] * (u.ndim - len(lengths))
    padding += [
        (0, n - m) for n, m in zip(lengths, u.shape[-len(lengths) :], strict=True)
    ]
    product = _scale(eigenvalues, jnp.fft.ifftn(jnp.pad(u, padding), axes=axes))
    return jnp.fft.fftn(product, axes=axes)


def _scale(eigenvalues: Array, x: Array) -> Array:
    return jnp.expand_dims(eigenvalues, range(x.ndim - eigenvalues.ndim)) * x


def _check_vector(x: Any, name: str, owner: str) -> None:
    if jnp.ndim(x) != 1 or jnp.size(x) == 0:
        raise ValueError(
            f"`{name}` of {owner} must be a vector with one entry or more; got shape "
            f"{jnp.shape(x)}."
        )
    require_fft_dtype(x.dtype, owner)


class Circulant(AbstractOperator):
    r"""A circulant matrix, given by its first column, as `scipy.linalg.circulant`.

    $$y_i = \sum_j c_{(i - j) \bmod n}\, x_j$$

    **Cost:** two FFTs of length `n` a product, also of the transpose; the eigenvalues,
    the FFT of the column, are computed once a solve. Zero eigenvalues make it singular.
    """

    may_call_back = False

    column: Inexact[Array, " size"]

    def __check_init__(self) -> None:
        _check_vector(self.column, "column", "`Circulant`")

    def mv(self, vector: Inexact[Array, " size"]) -> Inexact[Array, " size"]:
        return convolve(self._eigenvalues(), vector, self.column.shape)

    def rmv(self, vector: Inexact[Array, " size"]) -> Inexact[Array, " size"]:
        return correlate(self._eigenvalues(), vector, self.column.shape)

    def _eigenvalues(self) -> Array:
        return spectrum(self.column, self.column.shape)

    def as_matrix(self) -> Inexact[Array, "size size"]:
        places = np.arange(self.column.size)
        return self.column[(places[:, None] - places) % self.column.size]

    def in_structure(self) -> Structure:
        return jax.ShapeDtypeStruct(self.column.shape, self.column.dtype)

    def out_structure(self) -> Structure:
        return self.in_structure()


Circulant.__init__.__doc__ = """**Arguments:**

- `column`: the first column, real or complex, in 32 or 64 bits.

**Raises:** `ValueError` unless it is a vector; `TypeError` for other dtypes.
"""


class Toeplitz(AbstractOperator):
    r"""A Toeplitz matrix of any shape, as `scipy.linalg.toeplitz`.

    $$y_i = \sum_j t_{i - j}\, x_j, \qquad t_i = \mathtt{column}_i, \quad
    t_{-j} = \mathtt{row}_j \text{ for } j > 0$$

    It is a corner of a circulant matrix of more than `rows + columns` entries.

    **Cost:** two FFTs of about length `rows + columns` a product, also of the
    transpose; the eigenvalues are computed once a solve.
    """

    may_call_back = False

    column: Inexact[Array, " rows"]
    row: Inexact[Array, " columns"]

    def __init__(
        self,
        column: Inexact[Array, " rows"],
        row: Inexact[Array, " columns"] | None = None,
    ) -> None:
        """**Arguments:**

        - `column`: the first column, real or complex, in 32 or 64 bits.
        - `row`: the first row, of the same dtype. Its first entry is not used: that of
            `column` is. By default the conjugated column: a Hermitian matrix.

        **Raises:** `ValueError` unless both are vectors; `TypeError` for other dtypes.
        """
        self.column = column
        self.row = jnp.conj(column) if row is None else row
        _check_vector(self.column, "column", "`Toeplitz`")
        _check_vector(self.row, "row", "`Toeplitz`")
        if self.row.dtype != self.column.dtype:
            raise TypeError(
                "`column` and `row` of `Toeplitz` must have one dtype; got "
                f"{self.column.dtype} and {self.row.dtype}."
            )

    def mv(self, vector: Inexact[Array, " columns"]) -> Inexact[Array, " rows"]:
        lengths = self._lengths()
        return convolve(self._eigenvalues(), vector, lengths)[: self.column.size]

    def rmv(self, vector: Inexact[Array, " rows"]) -> Inexact[Array, " columns"]:
        lengths = self._lengths()
        return correlate(self._eigenvalues(), vector, lengths)[: self.row.size]

    def _lengths(self) -> Shape:
        return fast_lengths((self.column.size + self.row.size - 1,))

    def _eigenvalues(self) -> Array:
        lengths = self._lengths()
        gap = lengths[0] - self.column.size - self.row.size + 1
        upper = jnp.flip(self.row[1:])
        return spectrum(
            jnp.concatenate([jnp.pad(self.column, (0, gap)), upper]), lengths
        )

    def as_matrix(self) -> Inexact[Array, "rows columns"]:
        entries = jnp.concatenate([jnp.flip(self.row[1:]), self.column])
        rows, columns = np.arange(self.column.size), np.arange(self.row.size)
        return entries[rows[:, None] - columns + self.row.size - 1]

    def in_structure(self) -> Structure:
        return jax.ShapeDtypeStruct(self.row.shape, self.row.dtype)

    def out_structure(self) -> Structure:
        return jax.ShapeDtypeStruct(self.column.shape, self.column.dtype)
