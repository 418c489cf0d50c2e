"""Products with a matrix that is computed, never stored: some of its rows at a time.

A block of rows lives as long as its share of the product. `jax.checkpoint` computes it
again in reverse mode, which would store every block otherwise.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, PyTree

from ..._jax import vary

# Entries of a block where nobody chose its size: 8 MB in double precision.
_ENTRIES = 2**20


def require_chunk_size(chunk_size: Any) -> None:
    """Raise a `ValueError` unless `chunk_size` is a positive integer or `None`."""
    if chunk_size is not None and not (isinstance(chunk_size, int) and chunk_size > 0):
        raise ValueError(
            "`chunk_size`, the number of rows computed at a time, must be a positive "
            f"integer or None; got {chunk_size!r}."
        )


def size(points: PyTree[Array]) -> int:
    """The number of points: the length of the leading axis of every leaf."""
    return jax.tree.leaves(points)[0].shape[0]


@dataclasses.dataclass(frozen=True)
class Rows:
    """The matrix `block(points)`, one row a point, computed in chunks of points."""

    block: Callable[[Any], Inexact[Array, "chunk columns"]]
    points: PyTree[Array]
    columns: int
    chunk_size: int | None

    def mv(self, vector: Inexact[Array, " columns"]) -> Inexact[Array, " rows"]:
        """`block(points) @ vector`."""
        return self._map(lambda part: _matmul(self.block(part), vector))

    def rmv(
        self, vector: Inexact[Array, " rows"], axes: frozenset[Any]
    ) -> Inexact[Array, " columns"]:
        """`vector @ block(points)`; `axes` are the manual axes of all operands."""

        def add(total: Array, part: Any) -> tuple[Array, None]:
            points, entries = part
            return total + _matmul(entries, self.block(points)), None

        parts = self._split(self.points), self._split(vector, mode="constant")
        zero = vary(jnp.zeros((self.columns,), vector.dtype), axes)
        return jax.lax.scan(jax.checkpoint(add, prevent_cse=False), zero, parts)[0]

    def matrix(self) -> Inexact[Array, "rows columns"]:
        """All rows at once."""
        return self._map(self.block)

    def _map(self, function: Callable[[Any], Array]) -> Array:
        parts = self._split(self.points)
        out = jax.lax.map(jax.checkpoint(function, prevent_cse=False), parts)
        return out.reshape(-1, *out.shape[2:])[: size(self.points)]

    def _split(self, points: PyTree[Array], mode: str = "edge") -> PyTree[Array]:
        """Chunks of equal length, the last one filled up.

        Points are repeated, since a kernel may have no derivative at a made-up one.
        """
        rows = size(points)
        chunk = self.chunk_size or max(1, _ENTRIES // max(1, self.columns))
        count = max(1, -(-rows // chunk))
        chunk = -(-rows // count)

        def leaf(x: Array) -> Array:
            padding = [(0, count * chunk - rows)] + [(0, 0)] * (x.ndim - 1)
            return jnp.pad(x, padding, mode=mode).reshape(count, chunk, *x.shape[1:])

        return jax.tree.map(leaf, points)


def _matmul(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
