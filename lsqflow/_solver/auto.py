"""The default solver: a factorization where one is cheap, LSMR everywhere else."""

import lineax as lx

from .._operator.matrix import MatrixOperator
from .._problem.problem import Problem
from .._solution import PrimalDual
from .base import AbstractSolver, Stats
from .golub_kahan import AbstractGolubKahanSolver
from .lineax import as_solver, can_factorize, require_solver
from .lsmr import LSMR

# Matrices up to this many entries are factorized: there, a singular value
# decomposition costs no more than LSMR, and is exact for any rank.
_SMALL = 2**12


class AutoSolver(AbstractSolver):
    """The default solver. It chooses another one by what is known before the solve.

    - For a dense matrix of at most 4096 entries: a singular value decomposition,
        `lsqflow.SVD()`. Not in half precision, and not on an explicit mesh.
    - For everything else: `iterative`, by default `lsqflow.LSMR()`.

    **Use when** you have not thought about solvers. `select` tells what is chosen.
    **Cost:** that of the solver that is chosen.
    """

    iterative: AbstractGolubKahanSolver = LSMR()

    def __check_init__(self) -> None:
        require_solver(self.iterative, "iterative")

    def select(self, operator: lx.AbstractLinearOperator) -> lx.AbstractLinearSolver:
        """The solver that is chosen for an operator."""
        dense = isinstance(operator, MatrixOperator | lx.MatrixLinearOperator)
        small = 0 < operator.in_size() * operator.out_size() <= _SMALL
        return (
            lx.SVD() if dense and small and can_factorize(operator) else self.iterative
        )

    def run(self, problem: Problem) -> tuple[PrimalDual, Stats]:
        return as_solver(self.select(problem.operator)).run(problem)


AutoSolver.__init__.__doc__ = """**Arguments:**

- `iterative`: the solver for everything that is not a small dense matrix. The default
    is `lsqflow.LSMR()`.
"""
