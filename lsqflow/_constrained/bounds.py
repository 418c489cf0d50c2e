"""Bounded least squares: the descent, and derivatives on its last active set."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from .. import _tree as tree
from .._derivative.adjoint import AbstractAdjoint, ImplicitAdjoint
from .._jax import manual_axes, vary
from .._operator.base import AbstractOperator
from .._outcome import StopReason
from .._problem.problem import Problem
from .._solution import PrimalDual
from .._solver.auto import AutoSolver
from .._solver.base import AbstractSolver, Stats
from .._solver.golub_kahan import AbstractGolubKahanSolver
from .._solver.loop import ready
from .._solver.lsmr import LSMR
from .._tree import Vector
from .box import Box
from .descent import Descent
from .point import Bounded, correction_problem

Scalar = Float[Array, ""]

_CROSSED = (
    "Every lower bound must be at most its upper bound, and neither NaN; these bounds "
    "leave no feasible point. Check what computes them."
)


def solve_bounded(
    problem: Problem,
    box: Box,
    solver: lx.AbstractLinearSolver,
    adjoint: AbstractAdjoint,
    *,
    x0: Vector | None = None,
    throw: bool,
) -> tuple[PrimalDual, Stats]:
    r"""Solve $\min_x \|A x - b\|^2 + \lambda^2 \|x\|^2$, lower ≤ x ≤ upper.

    The value comes from a projected descent, and the derivatives from the least-squares
    problem of the unknowns that are free in the end: with $x_B$ the bounds where they
    are active, the last iterate elsewhere and without a derivative, and $M$ the mask,

    $$x = x_B + (A M)^+ (b - A x_B).$$

    The second term is zero at the solution, so its value is not computed. Each of its
    derivatives costs one solve of the size of the problem.

    **Arguments:** those of `AbstractAdjoint.solve`, the `box`, and `x0`: where to
    start, by default the point of the box nearest to zero.

    **Returns:** the solution, its residual $b - A x$, and in the place of its dual the
    multipliers of the bounds: $\nabla(½\|A x - b\|² + ½λ²\|x\|²)$ in the entries at
    bounds, zero elsewhere. Then statistics.

    **Raises:** `TypeError` for an adjoint or solver that cannot handle bounds.
    """
    method = _method(solver, problem.operator)
    adjoint = _implicit(adjoint, method)
    x, stats = jax.lax.stop_gradient(_descent(_constant((problem, box, x0)), method))

    lower, upper = box.at_bounds(x)
    free = jax.tree.map(lambda a, b: jax.lax.stop_gradient(~(a | b)), lower, upper)
    base = jax.tree.map(
        lambda v, a, b, low, high: jnp.where(a, low, jnp.where(b, high, v)),
        *(x, lower, upper, box.lower, box.upper),
    )
    rest = correction_problem(problem, free, base, problem.residual(base))
    correction, stats = adjoint.solve(rest, _Known(stats), throw=throw)
    x = tree.add(base, tree.select(free, correction.primal))
    if throw:
        token = eqx.error_if(jnp.zeros(()), box.is_empty(), _CROSSED)
        x = jax.tree.map(lambda v: v + token.astype(v.dtype), x)
    residual = correction.residual
    residual = residual if problem.damp is None else residual[0]
    bound = jax.tree.map(jnp.logical_not, free)
    multipliers = tree.select(bound, problem.gradient(x, residual))
    return PrimalDual(x, multipliers, residual), stats


class _Known(AbstractSolver):
    """The solver of a correction that is known to be zero."""

    stats: Stats

    def run(self, problem: Problem) -> tuple[PrimalDual, Stats]:
        x = tree.zeros(problem.operator.in_structure())
        y = tree.zeros(problem.operator.out_structure())
        return PrimalDual(x, y, problem.vector), self.stats


def _constant(args: Any) -> Any:
    dynamic, static = eqx.partition(args, eqx.is_inexact_array)
    return eqx.combine(jax.lax.stop_gradient(dynamic), static)


def _implicit(
    adjoint: AbstractAdjoint, solver: lx.AbstractLinearSolver
) -> ImplicitAdjoint:
    if not isinstance(adjoint, ImplicitAdjoint):
        raise TypeError(
            "Bounded problems are differentiated with `lsqflow.ImplicitAdjoint`; got "
            f"{type(adjoint).__name__}: which unknowns are at their bounds is not a "
            "smooth function of the iterations."
        )
    return ImplicitAdjoint(solver) if adjoint.solver is None else adjoint


def _method(
    solver: lx.AbstractLinearSolver, operator: AbstractOperator
) -> lx.AbstractLinearSolver:
    """The solver for the free unknowns. It meets columns of zeros, so any rank."""
    if isinstance(solver, AutoSolver):
        solver = solver.select(operator)
    if not isinstance(solver, AbstractSolver) and solver.assume_full_rank():
        raise TypeError(
            "Bounded problems need a solver that handles rank deficiency, such as "
            f"`lsqflow.LSMR()` or `lsqflow.SVD()`; got {type(solver).__name__}."
        )
    return solver


def _descent(
    args: tuple[Problem, Box, Vector | None], solver: lx.AbstractLinearSolver
) -> tuple[Vector, Stats]:
    problem, box, x0 = args
    problem = ready(problem)
    box = vary(box, manual_axes((problem, box)))
    golub_kahan = solver if isinstance(solver, AbstractGolubKahanSolver) else LSMR()
    x0 = tree.zeros(problem.operator.in_structure()) if x0 is None else x0
    bounded = Bounded(problem, box)
    state = Descent(bounded, solver, golub_kahan.tolerances(problem)).run(x0)
    unknown = jnp.full_like(state.point.norm, jnp.nan)
    return state.point.x, {
        "num_steps": state.num_steps,
        "outer_steps": state.outer_steps,
        "residual_norm": tree.norm(state.point.residual),
        "normal_residual_norm": tree.norm(bounded.downhill(state.point)),
        "operator_norm": state.operator_norm,
        "condition": unknown,
        "relative_error": unknown,
        "stop_reason": StopReason.where(
            box.is_empty(), StopReason.nonfinite_input, state.reason
        ),
    }
