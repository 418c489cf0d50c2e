"""How the nonzeros lie in memory so that a product with a vector is fast."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int

from .triplets import numpy_for

MAX_WIDTH = 4


class Pieces(eqx.Module):
    """A matrix whose rows are cut into pieces of up to four nonzeros.

    Their products with the vector are added place by place, as up to four long arrays,
    which the compiler turns into one vectorised loop; what is left for the scattered
    sum are the pieces, in the order of their rows. Width and number of the pieces
    follow from the numbers of rows and nonzeros alone, for the worst case, so that
    another pattern finds compiled code. Long rows cost no more memory than short ones.
    """

    source: Int[Array, "width pieces"]
    column: Int[Array, "width pieces"]
    row: Int[Array, " pieces"]
    num_rows: int = eqx.field(static=True)

    @classmethod
    def of(cls, rows: Any, columns: Any, shape: Sequence[int]) -> "Pieces":
        """Sort nonzeros by row and column: NumPy's work where they are known.

        Every position is the answer to a question, none is written to: the same
        lines serve NumPy and, for traced indices, JAX.
        """
        num_rows, num_columns = shape
        size = rows.shape[0]
        width = min(max(round(size / max(num_rows, 1)), 1), MAX_WIDTH)
        count = _max_pieces(size, num_rows, width)
        if not count:
            empty = jnp.zeros((width, 0), jnp.int32)
            return cls(empty, empty, empty[0], num_rows)
        xp = numpy_for(rows, columns)
        inside = (rows >= 0) & (rows < num_rows)
        inside &= (columns >= 0) & (columns < num_columns)
        rows = xp.where(inside, rows, num_rows).astype(xp.int32)
        order = xp.lexsort((columns, rows)).astype(xp.int32)
        piece = xp.arange(count, dtype=xp.int32)[None]
        starts = xp.searchsorted(
            rows[order], xp.arange(num_rows + 1, dtype=xp.int32)
        ).astype(xp.int32)
        pieces = -(-xp.diff(starts) // width)
        ends = xp.cumsum(pieces, dtype=xp.int32)
        # Pieces behind the last get the row `num_rows`, which the sum leaves out.
        row = xp.searchsorted(ends, piece, side="right").astype(xp.int32)
        last = xp.minimum(row, num_rows - 1)
        skipped = piece - (ends - pieces)[last]
        place = xp.arange(width, dtype=xp.int32)[:, None]
        position = starts[last] + width * skipped + place
        end = xp.where(row < num_rows, starts[last + 1], 0)
        # A place without a nonzero repeats the column of its row's last one: zero
        # times infinity spoils no row that would be finite.
        nearest = order[xp.clip(position, 0, xp.maximum(end - 1, 0))]
        source = xp.where(position < end, nearest, size)
        column = xp.clip(columns[nearest], 0, num_columns - 1)
        return cls(
            source=jnp.asarray(source, jnp.int32),
            column=jnp.asarray(column, jnp.int32),
            row=jnp.asarray(row[0], jnp.int32),
            num_rows=num_rows,
        )

    def entries(self, data: Inexact[Array, " nonzeros"]) -> Inexact[Array, "w p"]:
        """The data in this layout; zero where a piece has fewer nonzeros."""
        return data.at[self.source].get(
            mode="fill", fill_value=0, wrap_negative_indices=False
        )

    def product(
        self, entries: Inexact[Array, "w p"], vector: Inexact[Array, " columns"]
    ) -> Inexact[Array, " rows"]:
        """`A v`."""
        if not self.row.shape[-1]:
            return jnp.zeros((self.num_rows,), entries.dtype)
        terms = [
            entry
            * vector.at[column].get(
                mode="promise_in_bounds", wrap_negative_indices=False
            )
            for entry, column in zip(entries, self.column, strict=True)
        ]
        return jax.ops.segment_sum(
            sum(terms[1:], terms[0]),
            self.row,
            self.num_rows,
            indices_are_sorted=True,
        )


def _max_pieces(nonzeros: int, rows: int, width: int) -> int:
    """The most pieces into which the rows of any such matrix can fall.

    Σ ⌈cᵢ / w⌉ ≤ (Σ cᵢ + (w - 1) · #{cᵢ > 0}) / w for rows of cᵢ nonzeros.
    """
    return (nonzeros + (width - 1) * min(rows, nonzeros)) // width
