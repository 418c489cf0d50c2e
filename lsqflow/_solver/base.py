"""What a solver is, and how lineax sees it."""

import abc
from typing import Any

import lineax as lx

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._operator.convert import as_operator
from .._operator.matrix import MatrixOperator
from .._operator.program import Program
from .._operator.views import Linearised
from .._outcome import to_lineax
from .._problem.problem import Problem
from .._solution import PrimalDual
from .._tree import Vector

Stats = dict[str, Any]


class AbstractSolver(lx.AbstractLinearSolver[AbstractOperator]):
    """A least-squares solver that lsqflow and lineax both accept.

    Subclass it with `run`. The lineax interface follows, and so do derivatives.
    """

    @abc.abstractmethod
    def run(self, problem: Problem) -> tuple[PrimalDual, Stats]:
        """Solve a problem.

        **Arguments:**

        - `problem`: an [`lsqflow.Problem`][]: operator, vector and damping.

        **Returns:** an [`lsqflow.PrimalDual`][] with the solution, its dual and its
        residual; and a dictionary of statistics, those that [`lsqflow.Solution`][]
        documents. A failure does not raise: it is the `"stop_reason"` there.
        """

    def init(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> AbstractOperator:
        if options:
            msg = (
                f"{type(self).__name__} takes no `options` in `lineax.linear_solve`; "
                f"got {sorted(options)}. Tolerances are fields of the solver; `damp` "
                "and `x0` are arguments of `lsqflow.lstsq`, which also differentiates "
                "with respect to `damp`."
            )
            raise ValueError(msg)
        operator = as_operator(operator).linearise()
        if isinstance(operator, MatrixOperator):
            return operator
        # Traced functions compare by what they compute. lineax and diffrax compare the
        # static parts of states.
        ends = operator.in_structure(), operator.out_structure()
        return Linearised(
            Program.trace(lambda x: operator.mv(x), ends[0]),  # noqa: PLW0108
            Program.trace(lambda u: operator.rmv(u), ends[1]),  # noqa: PLW0108
            tree.StaticStructure(ends),
            operator.tags(),
        )

    def compute(
        self, state: AbstractOperator, vector: Vector, options: dict[str, Any]
    ) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
        del options
        solution, stats = self.run(Problem(state, vector))
        return solution.primal, to_lineax(stats["stop_reason"]), stats

    def transpose(
        self, state: AbstractOperator, options: dict[str, Any]
    ) -> tuple[AbstractOperator, dict[str, Any]]:
        return state.transpose(), options

    def conj(
        self, state: AbstractOperator, options: dict[str, Any]
    ) -> tuple[AbstractOperator, dict[str, Any]]:
        return state.conj(), options

    def assume_full_rank(self) -> bool:
        return False
