"""Damping as an operator: `[A; λ I]`."""

from jaxtyping import Array, Float

from ... import _tree as tree
from ..._tree import Structure, Vector
from ..base import AbstractOperator
from ..composite import AbstractComposite


class Damped(AbstractComposite):
    """The operator `x ↦ (A x, λ x)`, whose least squares are the damped ones of `A`."""

    operator: AbstractOperator
    damp: Float[Array, ""]

    def mv(self, vector: Vector) -> tuple[Vector, Vector]:
        return self.operator.mv(vector), tree.scale(self.damp, vector)

    def rmv(self, vector: tuple[Vector, Vector]) -> Vector:
        upper, lower = vector
        return tree.axpy(self.damp, lower, self.operator.rmv(upper))

    def in_structure(self) -> Structure:
        return self.operator.in_structure()

    def out_structure(self) -> Structure:
        return self.operator.out_structure(), self.operator.in_structure()
