"""Sparse matrices."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Inexact

from ..._tree import Structure
from ..base import AbstractOperator
from .layout import Pieces
from .triplets import Triplets, require_in_bounds, triplets_of


class SparseOperator(AbstractOperator):
    """A sparse matrix acting on arrays of shape `(columns,)`.

    `A v = Σₖ dataₖ v[columnₖ]`, summed into the rows. The pattern is stored twice,
    ordered by rows for `A v` and by columns for `Aᵀ u`, so that both products read
    memory in order: about as fast as SciPy's compiled products on a CPU, and faster
    than `jax.experimental.sparse`.

    Solutions are differentiable with respect to `data`, the nonzeros in the order in
    which they were given. New data of the same pattern, and other patterns with as many
    nonzeros in a matrix of the same shape, find compiled code. To exchange the data of
    an operator:

    ```python
    new = eqx.tree_at(lambda operator: operator.data, operator, new_data)
    ```

    Nonzeros at the same place are added. Memory: `data` and, for each of the two
    orders, 9 bytes of indices for each of `nonzeros + 3 min(size, nonzeros)` places,
    with `size` the number of rows or of columns; during a solve the data lie in these
    places as well.
    """

    may_call_back = False

    data: Inexact[Array, " nonzeros"]
    by_row: Pieces = eqx.field(repr=False)
    by_column: Pieces = eqx.field(repr=False)

    def __init__(self, matrix: Any) -> None:
        """**Arguments:**

        - `matrix`: a sparse matrix or array of SciPy, in any format, or a
            `jax.experimental.sparse` `BCOO` or `BCSR`. `data` has the order of
            `matrix.tocoo()`, or of JAX's `matrix.data`. Integers become floats.

        Build it outside of `jit`: then the pattern is sorted once, by NumPy.

        **Raises:** `TypeError` for anything that is not sparse, `ValueError` for
        batched matrices and for other than two dimensions.
        """
        data, rows, columns, shape = triplets_of(matrix)
        self.data = data
        self.by_row = Pieces.of(rows, columns, shape)
        self.by_column = Pieces.of(columns, rows, shape[::-1])

    @classmethod
    def from_triplets(
        cls,
        data: ArrayLike | Sequence[complex | float],
        rows: ArrayLike | Sequence[int],
        columns: ArrayLike | Sequence[int],
        shape: Sequence[int],
    ) -> "SparseOperator":
        """The operator with `A[rows[k], columns[k]] += data[k]`.

        **Arguments:**

        - `data`: the nonzeros, in any order; those at the same place are added.
        - `rows`, `columns`: where they are.
        - `shape`: the numbers of rows and columns.

        **Raises:** `ValueError` if lengths differ or an index lies outside of `shape`
        (indices that are traced by `jit` are not checked: what lies outside does not
        count), `TypeError` if indices are not integers.
        """
        triplets = triplets_of(Triplets(data, rows, columns, shape))
        require_in_bounds(triplets)
        return cls(triplets)

    def mv(self, vector: Inexact[Array, " columns"]) -> Inexact[Array, " rows"]:
        return self.by_row.product(self.by_row.entries(self.data), vector)

    def rmv(self, vector: Inexact[Array, " rows"]) -> Inexact[Array, " columns"]:
        return self.by_column.product(self.by_column.entries(self.data), vector)

    def in_structure(self) -> Structure:
        return jax.ShapeDtypeStruct((self.by_column.num_rows,), self.data.dtype)

    def out_structure(self) -> Structure:
        return jax.ShapeDtypeStruct((self.by_row.num_rows,), self.data.dtype)

    def linearise(self) -> AbstractOperator:
        return SortedOperator(
            self.by_row,
            self.by_column,
            self.by_row.entries(self.data),
            self.by_column.entries(self.data),
        )

    def as_matrix(self) -> Inexact[Array, "rows columns"]:
        shape = (self.by_row.num_rows, self.by_column.num_rows)
        at = (self.by_row.row, self.by_row.column)
        zeros = jnp.zeros(shape, self.data.dtype)
        return zeros.at[at].add(self.by_row.entries(self.data), mode="drop")

    def conj(self) -> AbstractOperator:
        if not jnp.issubdtype(self.data.dtype, jnp.complexfloating):
            return self
        return eqx.tree_at(lambda x: x.data, self, jnp.conj(self.data))


class SortedOperator(AbstractOperator):
    """A sparse matrix with its data in both orders; lives as long as one solve.

    Whole arrays: `jax.linearize` would keep a slice for each place, and the compiler
    fuse the reordering with the slicing, which takes five times as long.
    """

    may_call_back = False

    by_row: Pieces = eqx.field(repr=False)
    by_column: Pieces = eqx.field(repr=False)
    row_entries: Inexact[Array, "w p"]
    column_entries: Inexact[Array, "v q"]

    def mv(self, vector: Inexact[Array, " columns"]) -> Inexact[Array, " rows"]:
        return self.by_row.product(self.row_entries, vector)

    def rmv(self, vector: Inexact[Array, " rows"]) -> Inexact[Array, " columns"]:
        return self.by_column.product(self.column_entries, vector)

    def in_structure(self) -> Structure:
        dtype = self.row_entries.dtype
        return jax.ShapeDtypeStruct((self.by_column.num_rows,), dtype)

    def out_structure(self) -> Structure:
        return jax.ShapeDtypeStruct((self.by_row.num_rows,), self.row_entries.dtype)

    def linearise(self) -> AbstractOperator:
        return self
