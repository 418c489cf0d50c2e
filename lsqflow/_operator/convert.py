"""From whatever users pass to an operator."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from .. import _tree as tree
from .._tree import Structure, Vector
from . import algebra, generic
from .base import AbstractOperator
from .diagonal import Diagonal, Identity
from .function import FunctionOperator, JacobianOperator
from .matrix import MatrixOperator
from .protocol import tags_of
from .sparse.operator import SparseOperator
from .sparse.triplets import is_sparse

# Whatever `as_operator` takes: an operator of ours or of lineax, a matrix (dense, or
# sparse of SciPy or JAX), and what others register.
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

    def tags(self) -> frozenset[object]:
        return tags_of(self.operator)

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

    Sums, products, multiples, functions and Jacobians of lineax become ours, part by
    part; all keep their tags. Sparse matrices (SciPy, BCOO, BCSR) become a
    [`lsqflow.SparseOperator`][].

    **Raises:** `TypeError` for anything else, `ValueError` for an array that is not a
    matrix.
    """
    return generic.as_operator(operator)


@generic.as_operator.register(object)
def _(operator: Any) -> AbstractOperator:
    if isinstance(operator, jax.Array | np.ndarray):
        return _from_array(jnp.asarray(operator))
    if is_sparse(operator):
        return SparseOperator(operator)
    msg = (
        "The operator must be a two-dimensional array, a sparse matrix, a lineax "
        f"operator or an `lsqflow.AbstractOperator`; got {type(operator).__name__}. "
        "Wrap a linear function in `lsqflow.FunctionOperator(fn, example)`."
    )
    raise TypeError(msg)


@generic.as_operator.register(AbstractOperator)
def _(operator: AbstractOperator) -> AbstractOperator:
    return operator


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


@generic.as_operator.register(lx.AbstractLinearOperator)
def _(operator: lx.AbstractLinearOperator) -> AbstractOperator:
    return LineaxOperator(operator)


@generic.as_operator.register(lx.MatrixLinearOperator)
def _(operator: lx.MatrixLinearOperator) -> AbstractOperator:
    return MatrixOperator(jnp.asarray(operator.matrix), tags_of(operator))


@generic.as_operator.register(lx.TaggedLinearOperator)
def _(operator: lx.TaggedLinearOperator) -> AbstractOperator:
    match as_operator(operator.operator):
        case MatrixOperator(matrix):
            return MatrixOperator(matrix, tags_of(operator))
    return LineaxOperator(operator)


@generic.as_operator.register(lx.FunctionLinearOperator)
def _(operator: lx.FunctionLinearOperator) -> AbstractOperator:
    tags = tags_of(operator)
    return FunctionOperator(operator.fn, operator.in_structure(), tags)


@generic.as_operator.register(lx.JacobianLinearOperator)
def _(operator: lx.JacobianLinearOperator) -> AbstractOperator:
    if operator.jac == "bwd":  # for functions without a derivative forwards
        return LineaxOperator(operator)
    tags = tags_of(operator)
    at, args = operator.x, operator.args
    return JacobianOperator(operator.fn, at, args, tags=tags)


@generic.as_operator.register(lx.IdentityLinearOperator)
def _(operator: lx.IdentityLinearOperator) -> AbstractOperator:
    if operator.in_structure() == operator.out_structure():
        return Identity(operator.in_structure())
    return LineaxOperator(operator)


@generic.as_operator.register(lx.DiagonalLinearOperator)
def _(operator: lx.DiagonalLinearOperator) -> AbstractOperator:
    return _keeping_tags(Diagonal(operator.diagonal), operator)


@generic.as_operator.register(lx.ComposedLinearOperator)
def _(operator: lx.ComposedLinearOperator) -> AbstractOperator:
    left, right = map(as_operator, (operator.operator1, operator.operator2))
    return _keeping_tags(algebra.compose(left, right), operator)


@generic.as_operator.register(lx.AddLinearOperator)
def _(operator: lx.AddLinearOperator) -> AbstractOperator:
    left, right = map(as_operator, (operator.operator1, operator.operator2))
    return _keeping_tags(algebra.add(left, right), operator)


@generic.as_operator.register(lx.MulLinearOperator)
def _(operator: lx.MulLinearOperator) -> AbstractOperator:
    inside = as_operator(operator.operator)
    return _keeping_tags(algebra.scale(operator.scalar, inside), operator)


@generic.as_operator.register(lx.DivLinearOperator)
def _(operator: lx.DivLinearOperator) -> AbstractOperator:
    inside = as_operator(operator.operator)
    ours = algebra.scale(operator.scalar, inside, invert=True)
    return _keeping_tags(ours, operator)


@generic.as_operator.register(lx.NegLinearOperator)
def _(operator: lx.NegLinearOperator) -> AbstractOperator:
    return _keeping_tags(-as_operator(operator.operator), operator)


def _keeping_tags(
    ours: AbstractOperator, operator: lx.AbstractLinearOperator
) -> AbstractOperator:
    """Ours, unless lineax knows more of its own: tags are what solvers choose by."""
    return ours if tags_of(operator) <= ours.tags() else LineaxOperator(operator)
