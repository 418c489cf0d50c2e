"""Operators that solve: the pseudo-inverse, and projectors on null space and range."""

import equinox as eqx
import jax.numpy as jnp
import lineax as lx

from . import _tree as tree
from ._derivative.adjoint import ImplicitAdjoint
from ._operator.base import AbstractOperator
from ._operator.convert import OperatorLike, as_operator
from ._operator.diagonal import Identity
from ._operator.matrix import MatrixOperator
from ._problem.problem import Problem
from ._solution import PrimalDual
from ._solver.auto import AutoSolver
from ._solver.lineax import can_factorize, require_solver
from ._solver.lsmr import LSMR
from ._tree import Structure, Vector

# Dense operators up to this size are inverted once, not solved with in every step.
_MAX_RANK, _MAX_ENTRIES = 512, 2**22


class PseudoInverse(AbstractOperator):
    r"""$A^+$: maps $b$ to the least-squares solution of $A x = b$ of least norm.

    Make it with [`lsqflow.pinv`][]. Products can be differentiated with respect to the
    leaves of $A$, as long as its rank does not change. The transpose is the
    pseudo-inverse of $A^T$.

    **Cost:** one solve for each product. Inside another solve, a dense operator of at
    most 512 rows or columns is inverted once instead.
    """

    operator: AbstractOperator
    solver: lx.AbstractLinearSolver
    throw: bool = eqx.field(static=True)

    def __check_init__(self) -> None:
        require_solver(self.solver)

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
    """The pseudo-inverse $A^+$, as an operator whose products are solves.

    ```python
    inverse = lf.pinv(A)
    inverse.mv(b)  # the least-squares solution of least norm
    ```

    **Use when** an inverse is part of a larger operator, as in `lf.pinv(A) @ B`. To
    solve one problem, use [`lsqflow.lstsq`][], which also says how it went.

    **Arguments:**

    - `operator`: $A$: a matrix, a lineax operator, or an operator of lsqflow.
    - `solver`: the solver to use for each product.
    - `throw`: whether a solve that fails raises.

    **Returns:** an [`lsqflow.PseudoInverse`][]; for a pseudo-inverse, the operator that
    it was made of.

    **Cost:** one solve for each product.
    """
    operator = as_operator(operator)
    if isinstance(operator, PseudoInverse):
        return operator.operator
    return PseudoInverse(operator, solver, throw)


def accurate_solver(structure: Structure) -> LSMR:
    """LSMR with a tolerance near the precision of the dtype."""
    return LSMR(rtol=float(jnp.finfo(tree.storage_dtype(structure)).eps) ** 0.85)


@eqx.filter_jit
def solve(
    operator: AbstractOperator,
    vector: Vector,
    solver: lx.AbstractLinearSolver,
    throw: bool,  # noqa: FBT001
) -> PrimalDual:
    """A differentiable solve."""
    problem = Problem(operator, vector)
    return ImplicitAdjoint().solve(problem, solver, throw=throw)[0]


def dense_inverse(operator: AbstractOperator) -> MatrixOperator | None:
    """The pseudo-inverse of a dense operator that is not too large, as a matrix."""
    if not isinstance(operator, MatrixOperator) or not can_factorize(operator):
        return None
    matrix = operator.matrix
    if min(matrix.shape) > _MAX_RANK or matrix.size > _MAX_ENTRIES:
        return None
    return MatrixOperator(jnp.linalg.pinv(matrix))


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

        - `operator`: $C$: a matrix, a lineax operator, or an operator of lsqflow.
        - `solver`: the solver to use for each product; by default LSMR with a tolerance
            near the precision of the dtype.
        - `throw`: whether a solve that fails raises.
        """
        if solver is not None:
            require_solver(solver)
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
        """The residual of least squares with an operator, for a vector."""
        solver = self.solver
        if solver is None:
            solver = accurate_solver(operator.in_structure())
        return solve(operator, vector, solver, self.throw).residual


class NullSpaceProjector(AbstractProjector):
    r"""$N = I - C^+ C$: the part of a vector that $C$ maps to zero.

    **Use when** something must not change $C x$: add $N v$ to $x$ in the place of $v$.

    A product is the residual of a least-squares problem with $C^H$. Redundant rows of
    $C$ do no harm. Products can be differentiated with respect to the leaves of $C$, as
    long as its rank does not change.

    **Cost:** one solve for each product. Inside another solve, a dense $C$ of at most
    512 rows or columns is inverted once instead.
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
    r"""$C C^+$: the part of a vector that is $C x$ for some $x$.

    Products can be differentiated with respect to the leaves of $C$, as long as its
    rank does not change.

    **Cost:** one solve for each product. Inside another solve, a dense $C$ of at most
    512 rows or columns is inverted once instead.
    """

    def mv(self, vector: Vector) -> Vector:
        return tree.sub(vector, self._remainder(self.operator, vector))

    def in_structure(self) -> Structure:
        return self.operator.out_structure()

    def linearise(self) -> AbstractOperator:
        C = self.operator
        inverse = dense_inverse(C)
        return self._of(C.linearise()) if inverse is None else C @ inverse
