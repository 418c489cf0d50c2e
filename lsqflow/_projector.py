"""Projectors onto the null space and the range of an operator."""

import equinox as eqx
import lineax as lx

from . import _tree as tree
from ._operator.base import AbstractOperator
from ._operator.convert import OperatorLike, as_operator
from ._operator.diagonal import Identity
from ._pseudo_inverse import accurate_solver, dense_inverse, solve
from ._tree import Structure, Vector


class AbstractProjector(AbstractOperator):
    """An orthogonal projector onto a subspace that an operator defines."""

    operator: AbstractOperator
    solver: lx.AbstractLinearSolver | None
    throw: bool = eqx.field(static=True)

    def __init__(
        self,
        operator: OperatorLike,
        solver: lx.AbstractLinearSolver | None = None,
        *,
        throw: bool = True,
    ) -> None:
        """**Arguments:**

        - `operator`: $C$, an operator, a lineax operator or a matrix.
        - `solver`: who solves; by default LSMR near the precision of the dtype.
        - `throw`: whether a solve that fails raises.
        """
        self.operator, self.solver, self.throw = as_operator(operator), solver, throw

    def rmv(self, vector: Vector) -> Vector:
        return tree.conj(self.mv(tree.conj(vector)))

    def out_structure(self) -> Structure:
        return self.in_structure()

    def transpose(self) -> AbstractOperator:
        return self.conj()

    def conj(self) -> AbstractOperator:
        return self._of(self.operator.conj())

    def tags(self) -> frozenset[object]:
        tags = {lx.positive_semidefinite_tag}
        if not tree.is_complex(self.in_structure()):
            tags.add(lx.symmetric_tag)
        return frozenset(tags)

    def _of(self, operator: AbstractOperator) -> AbstractOperator:
        return type(self)(operator, self.solver, throw=self.throw)

    def _remainder(self, operator: AbstractOperator, vector: Vector) -> Vector:
        """What least squares with an operator leave of a vector."""
        solver = self.solver
        if solver is None:
            solver = accurate_solver(operator.in_structure())
        return solve(operator, vector, solver, self.throw).residual


class NullSpaceProjector(AbstractProjector):
    r"""$N = I - C^+ C$: the part of a vector that $C$ maps to zero.

    Products are residuals of least squares with $C^H$, which are orthogonal to the rows
    of $C$; redundant rows do not matter. Differentiable in the leaves of $C$, at
    constant rank.

    **Cost:** one solve a product. Within a solve, dense operators of at most 512 rows
    or columns are inverted once.
    """

    def mv(self, vector: Vector) -> Vector:
        return self._remainder(self.operator.H, vector)

    def in_structure(self) -> Structure:
        return self.operator.in_structure()

    def linearise(self) -> AbstractOperator:
        C = self.operator
        inverse = dense_inverse(C)
        if inverse is not None:
            return Identity(self.in_structure()) - inverse @ C
        return self._of(C.linearise())


class RangeProjector(AbstractProjector):
    r"""$C C^+$: the part of a vector that $C$ can produce.

    Differentiable in the leaves of $C$, at constant rank.

    **Cost:** one solve a product. Within a solve, dense operators of at most 512 rows
    or columns are inverted once.
    """

    def mv(self, vector: Vector) -> Vector:
        return tree.sub(vector, self._remainder(self.operator, vector))

    def in_structure(self) -> Structure:
        return self.operator.out_structure()

    def linearise(self) -> AbstractOperator:
        C = self.operator
        inverse = dense_inverse(C)
        return self._of(C.linearise()) if inverse is None else C @ inverse
