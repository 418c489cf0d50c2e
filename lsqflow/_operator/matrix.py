"""Dense matrices."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from .._jax import explicit_sharding
from .._tree import Structure
from .base import AbstractOperator


class MatrixOperator(AbstractOperator):
    """A dense matrix acting on arrays of shape `(columns,)`.

    Both products take XLA's fast path: the transposed one is `u @ A`, which on a CPU
    can be several times faster than `A.T @ u`. Products are at the highest precision,
    also where a GPU would use TensorFloat-32 by default.
    """

    jax_transposes_well = True

    matrix: Inexact[Array, "rows columns"]
    known_tags: frozenset[object] = eqx.field(static=True, default=frozenset())

    def __check_init__(self) -> None:
        matrix = self.matrix
        if jnp.ndim(matrix) != 2 or not jnp.issubdtype(matrix.dtype, jnp.inexact):
            msg = (
                "`MatrixOperator` needs a two-dimensional array of real or complex "
                f"floating-point numbers; got shape {jnp.shape(matrix)} and dtype "
                f"{matrix.dtype}. Convert it, or subclass `lsqflow.AbstractOperator`."
            )
            raise ValueError(msg)

    def mv(self, vector: Inexact[Array, " columns"]) -> Inexact[Array, " rows"]:
        return matmul(self.matrix, vector, sharded_like=(self.matrix, 0))

    def rmv(self, vector: Inexact[Array, " rows"]) -> Inexact[Array, " columns"]:
        return matmul(vector, self.matrix, sharded_like=(self.matrix, 1))

    def in_structure(self) -> Structure:
        return jax.ShapeDtypeStruct((self.matrix.shape[1],), self.matrix.dtype)

    def out_structure(self) -> Structure:
        return jax.ShapeDtypeStruct((self.matrix.shape[0],), self.matrix.dtype)

    def as_matrix(self) -> Inexact[Array, "rows columns"]:
        return self.matrix

    def tags(self) -> frozenset[object]:
        return self.known_tags

    def linearise(self) -> AbstractOperator:
        return self

    def conj(self) -> AbstractOperator:
        if not jnp.issubdtype(self.matrix.dtype, jnp.complexfloating):
            return self
        return MatrixOperator(jnp.conj(self.matrix), self.known_tags)


def matmul(
    left: Array, right: Array, sharded_like: tuple[Array, int] | None = None
) -> Array:
    """`left @ right` at the highest precision.

    On an explicit mesh a contraction over a sharded axis must say where its result
    lives: like an axis of a matrix.
    """
    out = None
    if sharded_like is not None:
        matrix, axis = sharded_like
        sharding = explicit_sharding(matrix)
        if sharding is not None:
            spec = jax.P(sharding.spec[axis])
            out = jax.sharding.NamedSharding(sharding.mesh, spec)
    return jnp.matmul(
        left, right, precision=jax.lax.Precision.HIGHEST, out_sharding=out
    )
