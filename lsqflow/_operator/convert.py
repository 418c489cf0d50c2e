"""From whatever users pass to an operator."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from .. import _tree as tree
from .._tree import Structure, Vector
from . import algebra
from .base import AbstractOperator
from .diagonal import Diagonal, Identity
from .matrix import MatrixOperator
from .sparse.operator import SparseOperator
from .sparse.triplets import is_sparse

# Whatever `as_operator` takes: an operator of ours or of lineax, a matrix (dense, or
# sparse of SciPy or JAX). SciPy is optional, so there is no narrower type.
OperatorLike = Any


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


def as_operator(operator: OperatorLike) -> AbstractOperator:
    """An operator from an operator, a lineax operator, or a two-dimensional array.

    Sums, products, multiples, diagonal and identity operators of lineax become ours,
    part by part. Sparse matrices (SciPy, BCOO, BCSR) become a
    [`lsqflow.SparseOperator`][].

    **Raises:** `TypeError` for anything else, `ValueError` for an array that is not a
    matrix.
    """
    match operator:
        case AbstractOperator():
            return operator
        case lx.AbstractLinearOperator():
            return _from_lineax(operator)
        case jax.Array() | np.ndarray():
            return _from_array(jnp.asarray(operator))
        case _ if is_sparse(operator):
            return SparseOperator(operator)
    msg = (
        "The operator must be a two-dimensional array, a sparse matrix, a lineax "
        f"operator or an `lsqflow.AbstractOperator`; got {type(operator).__name__}. "
        "Wrap a linear function in `lsqflow.FunctionOperator(fn, example)`."
    )
    raise TypeError(msg)


def is_operator_like(x: Any) -> bool:
    """Whether `x` is one operator, rather than a container of them."""
    return isinstance(x, lx.AbstractLinearOperator) or is_sparse(x)


def _from_array(matrix: jax.Array) -> AbstractOperator:
    if matrix.ndim != 2:
        raise ValueError(
            "An array in place of an operator must be two-dimensional, a matrix; got "
            f"shape {matrix.shape}. To apply an operator to a vector, use `A.mv(x)`."
        )
    if not jnp.issubdtype(matrix.dtype, jnp.inexact):
        matrix = matrix.astype(jnp.result_type(float))
    return MatrixOperator(matrix)


def _from_lineax(  # noqa: PLR0911  one return a class
    operator: lx.AbstractLinearOperator,
) -> AbstractOperator:
    match operator:
        case lx.MatrixLinearOperator():
            return MatrixOperator(jnp.asarray(operator.matrix), operator.tags)
        case lx.IdentityLinearOperator():
            if operator.in_structure() == operator.out_structure():
                return Identity(operator.in_structure())
        case lx.DiagonalLinearOperator():
            return Diagonal(operator.diagonal)
        case lx.ComposedLinearOperator():
            left, right = map(as_operator, (operator.operator1, operator.operator2))
            return algebra.compose(left, right)
        case lx.AddLinearOperator():
            left, right = map(as_operator, (operator.operator1, operator.operator2))
            return algebra.add(left, right)
        case lx.MulLinearOperator():
            return algebra.scale(operator.scalar, as_operator(operator.operator))
        case lx.DivLinearOperator():
            inside = as_operator(operator.operator)
            return algebra.scale(operator.scalar, inside, invert=True)
        case lx.NegLinearOperator():
            return -as_operator(operator.operator)
    return LineaxOperator(operator)
