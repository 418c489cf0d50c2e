"""Sparse matrices of SciPy and JAX as data, rows and columns."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.sparse import issparse

from ..._jax import is_traced

_LIMIT = 2**31 - 1


class Triplets(NamedTuple):
    """`A[rows[k], columns[k]] += data[k]`; indices outside of `shape` do not count."""

    data: Any
    rows: Any
    columns: Any
    shape: Sequence[int]


def is_sparse(matrix: Any) -> bool:
    """Whether `triplets_of` can read it."""
    return isinstance(matrix, Triplets) or issparse(matrix) or _is_jax(matrix)


# By its attributes: `jax.experimental.sparse` is slow to import.
def _is_jax(matrix: Any) -> bool:
    return all(hasattr(matrix, x) for x in ("n_batch", "n_dense", "indices", "data"))


def triplets_of(matrix: Any) -> Triplets:
    """The entries of a sparse matrix in the order of its storage, checked.

    **Raises:** `TypeError` for what is not a sparse matrix or holds no numbers,
    `ValueError` for shapes and indices that do not fit.
    """
    if isinstance(matrix, Triplets):
        return _checked(matrix)
    if _is_jax(matrix):
        return _checked(_from_jax(matrix))
    if not issparse(matrix):
        raise TypeError(
            "`SparseOperator` takes a sparse matrix of SciPy or a `BCOO` or `BCSR` of "
            f"`jax.experimental.sparse`; got {type(matrix).__name__}. Make it from "
            "arrays with `SparseOperator.from_triplets`, or use `MatrixOperator` for "
            "a dense matrix."
        )
    if len(matrix.shape) != 2:
        raise ValueError(
            "`SparseOperator` needs two dimensions; got a sparse array of shape "
            f"{tuple(matrix.shape)}. Reshape it before."
        )
    coo = matrix.tocoo()
    return _checked(Triplets(coo.data, coo.row, coo.col, matrix.shape))


def _from_jax(matrix: Any) -> Triplets:
    if matrix.n_batch or matrix.n_dense:
        raise ValueError(
            f"`SparseOperator` needs a `{type(matrix).__name__}` without batch and "
            f"dense dimensions; got n_batch={matrix.n_batch} and "
            f"n_dense={matrix.n_dense}. Make one with n_batch=0 and n_dense=0, and "
            "use `jax.vmap` for a batch."
        )
    if not hasattr(matrix, "indptr"):
        if matrix.ndim != 2:
            raise ValueError(
                "`SparseOperator` needs two dimensions; got a `BCOO` of shape "
                f"{matrix.shape}. Reshape it before."
            )
        rows, columns = concrete(matrix.indices).T
        return Triplets(matrix.data, rows, columns, matrix.shape)
    columns, starts = concrete(matrix.indices), concrete(matrix.indptr)
    xp = numpy_for(columns, starts)
    # Entries behind the last row are padding; their row comes out as one too many.
    places = xp.arange(columns.shape[0], dtype=starts.dtype)
    rows = xp.searchsorted(starts[1:], places, side="right")
    return Triplets(matrix.data, rows, columns, tuple(matrix.shape))


def concrete(indices: Any) -> Any:
    """As a NumPy array, or as it is if JAX traces it."""
    return indices if is_traced(indices) else np.asarray(indices)


def numpy_for(*arrays: Any) -> Any:
    """NumPy where all values are known, which compiles nothing; else `jax.numpy`."""
    return jnp if any(map(is_traced, arrays)) else np


def _checked(triplets: Triplets) -> Triplets:
    data, rows, columns, shape = triplets
    shape = tuple(shape)
    if len(shape) != 2 or not all(int(n) == n and 0 <= n < _LIMIT for n in shape):
        raise ValueError(
            f"`SparseOperator` needs a shape (rows, columns) below 2³¹; got {shape}."
        )
    data = jnp.asarray(data)
    if not jnp.issubdtype(data.dtype, jnp.inexact):
        data = data.astype(jnp.result_type(float))
    rows, columns = concrete(rows), concrete(columns)
    for name, indices in (("rows", rows), ("columns", columns)):
        if not jnp.issubdtype(indices.dtype, jnp.integer) and indices.size:
            raise TypeError(
                f"`{name}` of a `SparseOperator` are integers; got {indices.dtype}."
            )
    if not data.shape == rows.shape == columns.shape == (data.size,):
        raise ValueError(
            "`data`, `rows` and `columns` of a `SparseOperator` have one dimension "
            f"and the same length; got shapes {data.shape}, {rows.shape} and "
            f"{columns.shape}. Apply `jnp.ravel`."
        )
    if 8 * data.size > _LIMIT:
        raise ValueError(
            f"`SparseOperator` holds fewer than 2²⁸ nonzeros; got {data.size}. Stack "
            "several operators."
        )
    # Traced indices take JAX's own width, also where 64-bit types are off.
    dtype = jnp.int32 if numpy_for(rows, columns) is jnp else np.int64
    rows, columns = rows.astype(dtype), columns.astype(dtype)
    return Triplets(data, rows, columns, (int(shape[0]), int(shape[1])))


def require_in_bounds(triplets: Triplets) -> None:
    """Raise a `ValueError` if a known index lies outside of the shape."""
    names = ("rows", "columns")
    for name, indices, size in zip(
        names, (triplets.rows, triplets.columns), triplets.shape, strict=True
    ):
        if is_traced(indices) or not indices.size:
            continue
        low, high = indices.min(), indices.max()
        if low < 0 or high >= size:
            raise ValueError(
                f"`{name}` must lie from 0 to {size - 1} in shape {triplets.shape}; "
                f"got indices from {low} to {high}."
            )
