"""From whatever users pass to an operator."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from .. import _tree as tree
from .._tree import Structure, Vector
from .base import AbstractOperator
from .matrix import MatrixOperator


class LineaxOperator(AbstractOperator):
    """Any lineax operator, through its own products."""

    operator: lx.AbstractLinearOperator

    def mv(self, vector: Vector) -> Vector:
        return self.operator.mv(vector)

    def rmv(self, vector: Vector) -> Vector:
        return self.operator.transpose().mv(vector)

    def in_structure(self) -> Structure:
        return tree.structure(self.operator.in_structure())

    def out_structure(self) -> Structure:
        return tree.structure(self.operator.out_structure())

    def linearise(self) -> AbstractOperator:
        return LineaxOperator(lx.linearise(self.operator))

    def transpose(self) -> AbstractOperator:
        return LineaxOperator(self.operator.transpose())

    def conj(self) -> AbstractOperator:
        return LineaxOperator(lx.conj(self.operator))

    def as_matrix(self) -> jax.Array:
        return self.operator.as_matrix()


def as_operator(operator: Any) -> AbstractOperator:
    """An operator from an operator, a lineax operator, or a two-dimensional array.

    **Raises:** `TypeError` for anything else, `ValueError` for an array that is not a
    matrix.
    """
    if isinstance(operator, AbstractOperator):
        return operator
    if isinstance(operator, lx.MatrixLinearOperator):
        return MatrixOperator(jnp.asarray(operator.matrix), operator.tags)
    if isinstance(operator, lx.AbstractLinearOperator):
        return LineaxOperator(operator)
    if isinstance(operator, jax.Array | np.ndarray):
        matrix = jnp.asarray(operator)
        if not jnp.issubdtype(matrix.dtype, jnp.inexact):
            matrix = matrix.astype(jnp.result_type(float))
        return MatrixOperator(matrix)
    msg = (
        "The operator must be a two-dimensional array, a lineax operator or an "
        f"`lsqflow.AbstractOperator`; got {type(operator).__name__}. Wrap a linear "
        "function in `lsqflow.FunctionOperator(fn, example)`."
    )
    raise TypeError(msg)
