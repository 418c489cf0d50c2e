"""Sums, products and multiples of operators, simplified where that costs nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, ArrayLike, Inexact

from .. import _tree as tree
from .._tree import Structure, Vector
from . import generic
from .base import AbstractOperator
from .composite import AbstractComposite, same_structure, total
from .diagonal import Diagonal, Identity, Zero
from .display import brief

_OF_PRODUCTS = {lx.diagonal_tag, lx.lower_triangular_tag, lx.upper_triangular_tag}
_OF_MULTIPLES = _OF_PRODUCTS | {lx.symmetric_tag, lx.tridiagonal_tag}


class Composed(AbstractComposite):
    """`A₁ A₂ … Aₖ`, applied from the right: what `@` makes."""

    factors: tuple[AbstractOperator, ...]

    def mv(self, vector: Vector) -> Vector:
        for factor in reversed(self.factors):
            vector = factor.mv(vector)
        return vector

    def rmv(self, vector: Vector) -> Vector:
        for factor in self.factors:
            vector = factor.rmv(vector)
        return vector

    def in_structure(self) -> Structure:
        return self.factors[-1].in_structure()

    def out_structure(self) -> Structure:
        return self.factors[0].out_structure()

    def transpose(self) -> AbstractOperator:
        return Composed(tuple(factor.transpose() for factor in reversed(self.factors)))

    def tags(self) -> frozenset[object]:
        return _common_tags(self.factors) & _OF_PRODUCTS


class Sum(AbstractComposite):
    """`A₁ + A₂ + … + Aₖ`: what `+` makes."""

    terms: tuple[AbstractOperator, ...]

    def mv(self, vector: Vector) -> Vector:
        return total([term.mv(vector) for term in self.terms])

    def rmv(self, vector: Vector) -> Vector:
        return total([term.rmv(vector) for term in self.terms])

    def in_structure(self) -> Structure:
        return self.terms[0].in_structure()

    def out_structure(self) -> Structure:
        return self.terms[0].out_structure()

    def transpose(self) -> AbstractOperator:
        return Sum(tuple(term.transpose() for term in self.terms))

    def tags(self) -> frozenset[object]:
        return _common_tags(self.terms) - {lx.unit_diagonal_tag}


class Scaled(AbstractComposite):
    """`s A` for a scalar `s`: what `*` makes. Differentiable in `s`."""

    scalar: Inexact[Array, ""]
    operator: AbstractOperator

    def mv(self, vector: Vector) -> Vector:
        return tree.scale(self.scalar, self.operator.mv(vector))

    def rmv(self, vector: Vector) -> Vector:
        return tree.scale(self.scalar, self.operator.rmv(vector))

    def in_structure(self) -> Structure:
        return self.operator.in_structure()

    def out_structure(self) -> Structure:
        return self.operator.out_structure()

    def transpose(self) -> AbstractOperator:
        return Scaled(self.scalar, self.operator.transpose())

    def tags(self) -> frozenset[object]:
        return self.operator.tags() & _OF_MULTIPLES


def _common_tags(parts: tuple[AbstractOperator, ...]) -> frozenset[object]:
    first, *rest = (part.tags() for part in parts)
    return frozenset(first).intersection(*rest)


@generic.compose.register(AbstractOperator)
def compose(left: AbstractOperator, right: AbstractOperator) -> AbstractOperator:
    """`left @ right`.

    **Raises:** `ValueError` unless the output of `right` fits the input of `left`.
    """
    inner, outer = right.out_structure(), left.in_structure()
    if not same_structure(inner, outer):
        raise ValueError(
            "`A @ B` needs an operator A that takes what B returns; A takes "
            f"{brief(outer)} and B returns {brief(inner)}. To apply an operator to a "
            "vector, use `A.mv(x)`; between arrays and pytrees, `lsqflow.Ravel` and "
            "`lsqflow.Reshape` translate."
        )
    factors: list[AbstractOperator] = []
    for factor in (*_parts(left, Composed), *_parts(right, Composed)):
        match (factors[-1] if factors else None, factor):
            case (_, Identity()) if factors:
                pass
            case (Identity(), _):
                factors[-1] = factor
            case (Diagonal() as d, Diagonal() as e):
                factors[-1] = Diagonal(d.mv(e.entries))
            case _:
                factors.append(factor)
    if any(isinstance(factor, Zero) for factor in factors):
        return Zero(right.in_structure(), left.out_structure())
    return factors[0] if len(factors) == 1 else Composed(tuple(factors))


@generic.add.register(AbstractOperator)
def add(left: AbstractOperator, right: AbstractOperator) -> AbstractOperator:
    """`left + right`.

    **Raises:** `ValueError` unless the two act between the same structures.
    """
    ends = [(x.in_structure(), x.out_structure()) for x in (left, right)]
    if not same_structure(*ends):
        one, other = (" to ".join(map(brief, end)) for end in ends)
        raise ValueError(
            "`A + B` needs operators between the same structures; A goes from "
            f"{one}, B from {other}."
        )
    terms: list[AbstractOperator] = []
    for term in (*_parts(left, Sum), *_parts(right, Sum)):
        match (terms[-1] if terms else None, term):
            case (_, Zero()) if terms:
                pass
            case (Zero(), _):
                terms[-1] = term
            case (Diagonal() as d, Diagonal() as e):
                terms[-1] = Diagonal(tree.add(d.entries, e.entries))
            case _:
                terms.append(term)
    return terms[0] if len(terms) == 1 else Sum(tuple(terms))


def _parts(operator: AbstractOperator, kind: type) -> tuple[AbstractOperator, ...]:
    match operator:
        case Composed(factors) if kind is Composed:
            return factors
        case Sum(terms) if kind is Sum:
            return terms
    return (operator,)


@generic.scale.register(AbstractOperator)
def _(
    operator: AbstractOperator, scalar: ArrayLike, *, invert: bool = False
) -> AbstractOperator:
    return scale(scalar, operator, invert=invert)


def scale(
    scalar: ArrayLike, operator: AbstractOperator, *, invert: bool = False
) -> AbstractOperator:
    """`scalar * operator`, or `operator / scalar`.

    **Raises:** `TypeError` unless the scalar is a number, and real for an operator that
    has real vectors.
    """
    s = _as_scalar(scalar, operator)
    s = 1 / s if invert else s
    match operator:
        case Zero():
            return operator
        case Scaled(t, inside):
            dtype = np.result_type(s.dtype, t.dtype)
            return Scaled(s.astype(dtype) * t.astype(dtype), inside)
        case Diagonal(entries):
            return Diagonal(tree.scale(s, entries))
    return Scaled(s, operator)


def _as_scalar(scalar: Any, operator: AbstractOperator) -> Inexact[Array, ""]:
    ends = (operator.in_structure(), operator.out_structure())
    s = jnp.asarray(scalar)
    if s.shape != ():
        raise TypeError(
            f"`*` and `/` take scalars; got an array of shape {s.shape}. For a product "
            "of operators use `@`, for entrywise weights `lsqflow.Diagonal(w) @ A`."
        )
    dtype = tree.scalar_dtype(ends)
    if jnp.issubdtype(s.dtype, jnp.complexfloating):
        if not all(map(tree.is_complex, jax.tree.leaves(ends))):
            raise TypeError(
                "A complex multiple of an operator needs complex vectors; this one "
                f"goes from {brief(ends[0])} to {brief(ends[1])}."
            )
        dtype = np.result_type(dtype, np.complex64)
    return s.astype(dtype)
