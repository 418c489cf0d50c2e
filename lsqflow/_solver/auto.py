"""The default solver: a factorisation where one is cheap, LSMR everywhere else."""

from typing import Any

import lineax as lx
from jaxtyping import Array, Float

from .._operator.base import AbstractOperator
from .._operator.matrix import MatrixOperator
from .._solution import PrimalDual
from .._tree import Vector
from .base import AbstractGolubKahanSolver, AbstractSolver, Loop, while_loop
from .lineax import run
from .lsmr import LSMR

# Matrices up to this many entries are factorised: there, a singular value
# decomposition costs no more than LSMR, and is exact for any rank.
_SMALL = 2**12


class AutoSolver(AbstractSolver):
    """Chooses by what is known before the solve; `select` tells what.

    - A singular value decomposition for dense matrices of at most 4096 entries.
    - Otherwise `iterative`, by default LSMR at the tolerance of the dtype.
    """

    iterative: AbstractGolubKahanSolver = LSMR()

    def select(self, operator: lx.AbstractLinearOperator) -> lx.AbstractLinearSolver:
        """The solver that `operator` will be solved with."""
        dense = isinstance(operator, MatrixOperator | lx.MatrixLinearOperator)
        small = operator.in_size() * operator.out_size() <= _SMALL
        return lx.SVD() if dense and small else self.iterative

    def run(
        self,
        operator: AbstractOperator,
        vector: Vector,
        damp: Float[Array, ""] | None,
        *,
        loop: Loop = while_loop,
    ) -> tuple[PrimalDual, dict[str, Any]]:
        if loop is not while_loop:
            return self.iterative.run(operator, vector, damp, loop=loop)
        return run(self.select(operator), operator, vector, damp)


AutoSolver.__init__.__doc__ = """**Arguments:**

- `iterative`: the solver for everything that is not a small dense matrix.
"""
