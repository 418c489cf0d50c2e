"""Small sparse operators: empty rows, duplicates, long rows, no nonzeros."""

from collections.abc import Callable

import numpy as np
from jax.experimental import sparse as jsparse

import lsqflow as lf


def triplets(shape, nonzeros, dtype, seed=0):
    """Data, rows, columns in no order and with duplicates, and the dense matrix."""
    generator = np.random.default_rng(seed)
    rows, columns = (generator.integers(0, n, nonzeros) for n in shape)
    data = generator.standard_normal(nonzeros)
    if np.issubdtype(dtype, np.complexfloating):
        data = data + 1j * generator.standard_normal(nonzeros)
    dense = np.zeros(shape, dtype)
    np.add.at(dense, (rows, columns), data.astype(dtype))
    return (data.astype(dtype), rows, columns), dense


def _operator(shape, nonzeros, dtype):
    return lf.SparseOperator.from_triplets(*triplets(shape, nonzeros, dtype)[0], shape)


def sparse_tall(dtype):
    return _operator((14, 6), 30, dtype)


def sparse_with_empty_rows(dtype):
    return _operator((9, 11), 8, dtype)


def sparse_with_a_full_row(dtype):
    dense = triplets((7, 13), 12, dtype)[1]
    dense[3] = np.arange(1, 14)
    return lf.SparseOperator(jsparse.BCOO.fromdense(dense))


def sparse_without_nonzeros(dtype):
    return _operator((4, 3), 0, dtype)


CASES: dict[str, Callable[[np.dtype], lf.AbstractOperator]] = {
    make.__name__: make
    for make in (
        sparse_tall,
        sparse_with_empty_rows,
        sparse_with_a_full_row,
        sparse_without_nonzeros,
    )
}
