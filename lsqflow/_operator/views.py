"""An operator seen otherwise: linearised, transposed, conjugated."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Inexact

from .. import _tree as tree
from .._jax import manual_axes, vary
from .._tree import Structure, Vector
from . import generic
from .base import AbstractOperator
from .product import plain


def _hoist(function: Any, structure: Structure, axes: frozenset[Any]) -> Any:
    """A linear function with all work that does not depend on its argument done."""
    zeros = vary(tree.zeros(structure), axes)
    return jax.linearize(function, zeros)[1]


class Linearised(AbstractOperator):
    """An operator whose vector-independent work is done; lives as long as one solve."""

    jax_transposes_well = True

    forward: Any
    backward: Any
    structures: tree.StaticStructure = eqx.field(static=True)
    known_tags: frozenset[object] = eqx.field(static=True)

    @classmethod
    def of(cls, operator: AbstractOperator) -> "Linearised":
        """Partially evaluate `mv`, and `rmv` where the class has its own."""
        source, target = operator.in_structure(), operator.out_structure()
        axes = manual_axes(operator)
        backward = (
            _hoist(plain(operator, "rmv"), target, axes)
            if operator.has_own_rmv
            else None
        )
        return cls(
            forward=_hoist(plain(operator, "mv"), source, axes),
            backward=backward,
            structures=tree.StaticStructure((source, target)),
            known_tags=operator.tags(),
        )

    def mv(self, vector: Vector) -> Vector:
        return self.forward(vector)

    def rmv(self, vector: Vector) -> Vector:
        return super().rmv(vector) if self.backward is None else self.backward(vector)

    def in_structure(self) -> Structure:
        return self.structures.tree[0]

    def out_structure(self) -> Structure:
        return self.structures.tree[1]

    def tags(self) -> frozenset[object]:
        return self.known_tags

    def linearise(self) -> AbstractOperator:
        return self


class Transposed(AbstractOperator):
    """`Aᵀ`: the two products of an operator, exchanged."""

    jax_transposes_well = True

    operator: AbstractOperator

    def mv(self, vector: Vector) -> Vector:
        return self.operator.rmv(vector)

    def rmv(self, vector: Vector) -> Vector:
        return self.operator.mv(vector)

    def in_structure(self) -> Structure:
        return self.operator.out_structure()

    def out_structure(self) -> Structure:
        return self.operator.in_structure()

    def tags(self) -> frozenset[object]:
        return lx.transpose_tags(self.operator.tags())

    def linearise(self) -> AbstractOperator:
        return Transposed(self.operator.linearise())

    def transpose(self) -> AbstractOperator:
        return self.operator

    def as_matrix(self) -> Inexact[Array, "rows columns"]:
        return self.operator.as_matrix().T


class Conjugated(AbstractOperator):
    """`conj(A)`: conjugation before and after the products of a complex operator."""

    jax_transposes_well = True

    operator: AbstractOperator

    def mv(self, vector: Vector) -> Vector:
        return tree.conj(self.operator.mv(tree.conj(vector)))

    def rmv(self, vector: Vector) -> Vector:
        return tree.conj(self.operator.rmv(tree.conj(vector)))

    def in_structure(self) -> Structure:
        return self.operator.in_structure()

    def out_structure(self) -> Structure:
        return self.operator.out_structure()

    def tags(self) -> frozenset[object]:
        return self.operator.tags()

    def linearise(self) -> AbstractOperator:
        return Conjugated(self.operator.linearise())

    def conj(self) -> AbstractOperator:
        return self.operator

    def as_matrix(self) -> Inexact[Array, "rows columns"]:
        return jnp.conj(self.operator.as_matrix())


@generic.linearise.register(AbstractOperator)
def _(operator: AbstractOperator) -> AbstractOperator:
    return Linearised.of(operator)


@generic.transpose.register(AbstractOperator)
def _(operator: AbstractOperator) -> AbstractOperator:
    return Transposed(operator)


@generic.conj.register(AbstractOperator)
def _(operator: AbstractOperator) -> AbstractOperator:
    return Conjugated(operator)
