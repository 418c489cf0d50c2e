"""What lineax asks of operators, answered once for every subclass.

`functools.singledispatch` follows the method resolution order: a registration on the
abstract class serves every operator, a user's own included.
"""

import copyreg
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Inexact

from .base import AbstractOperator
from .matrix import MatrixOperator


@lx.linearise.register(AbstractOperator)
def _(operator: AbstractOperator) -> AbstractOperator:
    return operator.linearise()


@lx.materialise.register(AbstractOperator)
def _(operator: AbstractOperator) -> AbstractOperator:
    """A stored matrix where the operator acts between one-dimensional arrays."""
    ends = (operator.in_structure(), operator.out_structure())
    if all(isinstance(x, jax.ShapeDtypeStruct) and x.ndim == 1 for x in ends):
        return MatrixOperator(operator.as_matrix(), operator.tags())
    return operator.linearise()


@lx.conj.register(AbstractOperator)
def _(operator: AbstractOperator) -> AbstractOperator:
    return operator.conj()


@lx.diagonal.register(AbstractOperator)
def _(operator: AbstractOperator) -> Inexact[Array, " size"]:
    return jnp.diagonal(operator.as_matrix())


@lx.tridiagonal.register(AbstractOperator)
def _(operator: AbstractOperator) -> tuple[Array, Array, Array]:
    matrix = operator.as_matrix()
    return tuple(jnp.diagonal(matrix, offset=k) for k in (0, -1, 1))


TAGS = {
    lx.is_symmetric: lx.symmetric_tag,
    lx.is_diagonal: lx.diagonal_tag,
    lx.is_tridiagonal: lx.tridiagonal_tag,
    lx.has_unit_diagonal: lx.unit_diagonal_tag,
    lx.is_lower_triangular: lx.lower_triangular_tag,
    lx.is_upper_triangular: lx.upper_triangular_tag,
    lx.is_positive_semidefinite: lx.positive_semidefinite_tag,
    lx.is_negative_semidefinite: lx.negative_semidefinite_tag,
}


def tags_of(operator: lx.AbstractLinearOperator) -> frozenset[object]:
    """What lineax knows of an operator."""

    def says(predicate: Any) -> bool:
        try:
            return predicate(operator)
        except NotImplementedError:  # a class of a user's that has not registered it
            return False

    given = getattr(operator, "tags", None)
    known = frozenset(tag for predicate, tag in TAGS.items() if says(predicate))
    return known | given if isinstance(given, frozenset) else known


for _predicate, _tag in TAGS.items():
    _predicate.register(AbstractOperator)(
        lambda operator, tag=_tag: tag in operator.tags()
    )


# Lineax compares its tags by identity, so that a copy of one would not be the tag.
_NAMES = {tag: name for name, tag in vars(lx).items() if name.endswith("_tag")}


def _tag_named(name: str) -> Any:
    return getattr(lx, name)


def _reduce_tag(tag: Any) -> Any:
    if tag in _NAMES:
        return _tag_named, (_NAMES[tag],)
    return object.__reduce_ex__(tag, 2)


for _kind in {type(tag) for tag in _NAMES}:
    copyreg.pickle(_kind, _reduce_tag)
