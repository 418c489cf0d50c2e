"""The pseudo-inverse as an operator, and how it is applied."""

import equinox as eqx
import jax.numpy as jnp
import lineax as lx

from . import _tree as tree
from ._adjoint import ImplicitAdjoint
from ._operator.base import AbstractOperator
from ._operator.convert import OperatorLike, as_operator
from ._operator.matrix import MatrixOperator
from ._solution import PrimalDual
from ._solver.auto import AutoSolver
from ._solver.lsmr import LSMR
from ._tree import Structure, Vector

# Dense operators up to this size are inverted once a solve, instead of in every step.
_MAX_RANK, _MAX_ENTRIES = 512, 2**22


class PseudoInverse(AbstractOperator):
    r"""$A^+$, applied by solving: $A^+ b$ is the least-squares solution of least norm.

    Differentiable in the leaves of $A$, at constant rank. Its transpose is the
    pseudo-inverse of $A^T$.

    **Cost:** one solve a product.
    """

    operator: AbstractOperator
    solver: lx.AbstractLinearSolver
    throw: bool = eqx.field(static=True)

    def mv(self, vector: Vector) -> Vector:
        return solve(self.operator, vector, self.solver, self.throw).primal

    def rmv(self, vector: Vector) -> Vector:
        return self.transpose().mv(vector)

    def in_structure(self) -> Structure:
        return self.operator.out_structure()

    def out_structure(self) -> Structure:
        return self.operator.in_structure()

    def transpose(self) -> AbstractOperator:
        return PseudoInverse(self.operator.transpose(), self.solver, self.throw)

    def conj(self) -> AbstractOperator:
        return PseudoInverse(self.operator.conj(), self.solver, self.throw)

    def linearise(self) -> AbstractOperator:
        inverse = dense_inverse(self.operator)
        if inverse is not None:
            return inverse
        return PseudoInverse(self.operator.linearise(), self.solver, self.throw)


def pinv(
    operator: OperatorLike,
    solver: lx.AbstractLinearSolver = AutoSolver(),
    *,
    throw: bool = True,
) -> AbstractOperator:
    """The pseudo-inverse $A^+$ as an operator; see [`lsqflow.PseudoInverse`][].

    **Arguments:**

    - `operator`: $A$, an operator, a lineax operator or a matrix.
    - `solver`: who solves, at each product.
    - `throw`: whether a solve that fails raises.
    """
    operator = as_operator(operator)
    if isinstance(operator, PseudoInverse):
        return operator.operator
    return PseudoInverse(operator, solver, throw)


def accurate_solver(structure: Structure) -> LSMR:
    """LSMR near the precision of the dtype: for products inside another solve."""
    return LSMR(rtol=float(jnp.finfo(tree.storage_dtype(structure)).eps) ** 0.85)


@eqx.filter_jit
def solve(
    operator: AbstractOperator,
    vector: Vector,
    solver: lx.AbstractLinearSolver,
    throw: bool,  # noqa: FBT001
) -> PrimalDual:
    """A differentiable solve."""
    return ImplicitAdjoint().solve(operator, vector, None, solver, throw=throw)[0]


def dense_inverse(operator: AbstractOperator) -> MatrixOperator | None:
    """The pseudo-inverse of a dense operator that is not too large, as a matrix."""
    if not isinstance(operator, MatrixOperator):
        return None
    matrix = operator.matrix
    if min(matrix.shape) > _MAX_RANK or matrix.size > _MAX_ENTRIES:
        return None
    return MatrixOperator(jnp.linalg.pinv(matrix))
