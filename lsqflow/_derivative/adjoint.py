"""How a solve is differentiated: implicitly, or through its iterations."""

import abc

import equinox as eqx
import lineax as lx

from .._outcome import checked
from .._problem.problem import Problem
from .._solution import PrimalDual
from .._solver.auto import AutoSolver
from .._solver.base import Stats
from .._solver.lineax import as_solver, require_solver
from .._solver.loop import AbstractIterativeSolver, checkpointed_loop
from .primal_dual import System


class AbstractAdjoint(eqx.Module):
    """How derivatives of a solve are computed. Subclass it with `solve`."""

    @abc.abstractmethod
    def solve(
        self, problem: Problem, solver: lx.AbstractLinearSolver, *, throw: bool
    ) -> tuple[PrimalDual, Stats]:
        """Solve a problem, so that JAX can differentiate the solution.

        **Returns:** what [`run`][lsqflow.AbstractSolver.run] of a solver returns.
        """


class ImplicitAdjoint(AbstractAdjoint):
    """Derivatives of the exact solution, by the implicit function theorem. The default.

    **Use when** the solve converges.
    **Avoid when** it is stopped early on purpose: the derivatives are those of the
    exact solution, not those of the iterate.
    **Cost:** a gradient runs one solve of the transposed problem, whatever its shape
    and rank, damped or not. Memory does not depend on the number of steps.
    **Handles:** forward and reverse mode, and derivatives of any order.
    """

    solver: lx.AbstractLinearSolver | None = None

    def __check_init__(self) -> None:
        if self.solver is not None:
            require_solver(self.solver)

    def solve(
        self, problem: Problem, solver: lx.AbstractLinearSolver, *, throw: bool
    ) -> tuple[PrimalDual, Stats]:
        forward = as_solver(solver)
        backward = forward if self.solver is None else as_solver(self.solver)
        system = System(problem.operator, problem.damp, forward, backward, throw)
        return system.solve(problem.vector)


ImplicitAdjoint.__init__.__doc__ = """**Arguments:**

- `solver`: the solver to use for derivatives, such as the same method with other
    tolerances. The default, None, is the solver of the problem itself.
"""


class UnrolledAdjoint(AbstractAdjoint):
    """Derivatives of the iterations themselves, by checkpointed backpropagation.

    **Use when** the solve is stopped early, and you want the derivatives of the iterate
    that it reached.
    **Avoid when** the solve converges: `ImplicitAdjoint` gives the same for less.
    **Cost:** a gradient costs more than twice the steps, and memory for about
    `2 √max_steps` iterates. The program has room for `max_steps` steps, so set that of
    the solver to what is needed.
    **Handles:** forward and reverse mode, for an iterative solver of lsqflow. Not
    bounds.

    **Raises:** `TypeError` for another solver, for bounds, and where `max_steps` of the
    solver is not an integer of Python.
    """

    def solve(
        self, problem: Problem, solver: lx.AbstractLinearSolver, *, throw: bool
    ) -> tuple[PrimalDual, Stats]:
        solver = solver.iterative if isinstance(solver, AutoSolver) else solver
        if not isinstance(solver, AbstractIterativeSolver):
            raise TypeError(
                "`UnrolledAdjoint` differentiates the iterations of an lsqflow solver, "
                f"such as `lsqflow.LSMR`; got {type(solver).__name__}."
            )
        solution, stats = solver.run(problem, loop=checkpointed_loop)
        return checked(solution, stats["stop_reason"], throw), stats
