"""Kronecker products and sums: operators along the axes of one array."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from ..._tree import Structure
from ..base import AbstractOperator
from ..composite import AbstractComposite, same_structure, total
from ..convert import as_operator
from ..display import brief


class Kronecker(AbstractComposite):
    r"""$A_1 \otimes A_2 \otimes \dots$: each operator along its own axes of an array.

    For operators on arrays of shapes `(n₁,)`, `(n₂,)`, … vectors are arrays of shape
    `(n₁, n₂, …)`, so that $(A \otimes B) X = A X B^T$; in row-major order the matrix is
    that of `numpy.kron`. Operators on arrays of several axes take as many of them.

    **Cost:** each operator once for every entry along the other axes; never the matrix
    of the product.
    """

    factors: tuple[AbstractOperator, ...]

    def __init__(self, *factors: Any) -> None:
        """**Arguments:**

        - `factors`: operators, lineax operators or matrices, each from one array to one
            array, all of one dtype.

        **Raises:** `ValueError` if there is none, `TypeError` if one acts on pytrees.
        """
        self.factors = _factors(factors, "`Kronecker`")

    def mv(self, vector: Array) -> Array:
        # The last factor first: the axes before its own still are those of the input.
        for i in reversed(range(len(self.factors))):
            before = sum(f.in_structure().ndim for f in self.factors[:i])
            vector = _along(self.factors[i].mv, vector, before, self.factors[i])
        return vector

    def rmv(self, vector: Array) -> Array:
        return self.transpose().mv(vector)

    def in_structure(self) -> Structure:
        return _joint([factor.in_structure() for factor in self.factors])

    def out_structure(self) -> Structure:
        return _joint([factor.out_structure() for factor in self.factors])

    def transpose(self) -> AbstractOperator:
        return Kronecker(*(factor.T for factor in self.factors))

    def as_matrix(self) -> Inexact[Array, "rows columns"]:
        matrix, *rest = (factor.as_matrix() for factor in self.factors)
        for factor in rest:
            matrix = jnp.kron(matrix, factor)
        return matrix


class KroneckerSum(AbstractComposite):
    r"""$A_1 \oplus A_2 \oplus \dots$: the sum of square operators, each along its axes.

    For two, $A \otimes I + I \otimes B$ acts as $X \mapsto A X + X B^T$: Laplacians of
    grids, Sylvester's and Lyapunov's equations. Vectors as for
    [`lsqflow.Kronecker`][].

    **Cost:** each operator once for every entry along the other axes.
    """

    terms: tuple[AbstractOperator, ...]

    def __init__(self, *terms: Any) -> None:
        """**Arguments:**

        - `terms`: square operators, lineax operators or matrices, each from one array
            to one array of the same shape, all of one dtype.

        **Raises:** `ValueError` if there is none or one is not square, `TypeError` if
        one acts on pytrees.
        """
        self.terms = _factors(terms, "`KroneckerSum`")
        for term in self.terms:
            ends = term.in_structure(), term.out_structure()
            if not same_structure(*ends):
                raise ValueError(
                    "`KroneckerSum` needs square operators; got one from "
                    f"{brief(ends[0])} to {brief(ends[1])}."
                )

    def mv(self, vector: Array) -> Array:
        products, before = [], 0
        for term in self.terms:
            products.append(_along(term.mv, vector, before, term))
            before += term.in_structure().ndim
        return total(products)

    def rmv(self, vector: Array) -> Array:
        return self.transpose().mv(vector)

    def in_structure(self) -> Structure:
        return _joint([term.in_structure() for term in self.terms])

    def out_structure(self) -> Structure:
        return self.in_structure()

    def transpose(self) -> AbstractOperator:
        return KroneckerSum(*(term.T for term in self.terms))


def _factors(operators: tuple[Any, ...], owner: str) -> tuple[AbstractOperator, ...]:
    factors = tuple(map(as_operator, operators))
    if not factors:
        raise ValueError(f"{owner} needs at least one operator; got none.")
    ends = [end for f in factors for end in (f.in_structure(), f.out_structure())]
    for end in ends:
        if not isinstance(end, jax.ShapeDtypeStruct):
            raise TypeError(
                f"{owner} needs operators from one array to one array; got the "
                f"structure {brief(end)}. Put `lsqflow.Ravel` around it."
            )
        if end.dtype != ends[0].dtype:
            raise TypeError(
                f"{owner} needs operators of one dtype; got {ends[0].dtype} and "
                f"{end.dtype}."
            )
    return factors


def _joint(ends: list[Structure]) -> Structure:
    shape = sum((end.shape for end in ends), ())
    return jax.ShapeDtypeStruct(shape, ends[0].dtype)


def _along(product: Any, x: Array, before: int, operator: AbstractOperator) -> Array:
    """An operator's product along the axes after the first `before` ones."""
    after = x.ndim - before - operator.in_structure().ndim
    for _ in range(after):
        product = jax.vmap(product, in_axes=-1, out_axes=-1)
    for _ in range(before):
        product = jax.vmap(product)
    return product(x)
