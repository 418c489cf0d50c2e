"""Least squares subject to linear equations, by the null-space method."""

from typing import Any

import lineax as lx
from jaxtyping import Array, Float

from .. import _tree as tree
from .._derivative.adjoint import AbstractAdjoint, ImplicitAdjoint
from .._inverse import NullSpaceProjector, accurate_solver
from .._operator import algebra
from .._outcome import StopReason, checked, is_failure
from .._problem.problem import Problem
from .._problem.rewrite import warm_start
from .._solution import PrimalDual
from .._solver.base import Stats
from .._solver.verdict import Tolerances, feasible, gather, verdict
from .._tree import Vector
from ..constraint.affine import Affine

Scalar = Float[Array, ""]


def solve_affine(
    problem: Problem,
    constraint: Affine,
    x0: Vector | None,
    solver: lx.AbstractLinearSolver,
    adjoint: AbstractAdjoint,
    *,
    throw: bool,
) -> tuple[PrimalDual, Vector, Stats]:
    r"""Minimize $\|A x - b\|^2 + \lambda^2 \|x\|^2$ subject to $C x = d$.

    With $N = I - C^+ C$, the solution is $x = C^+ d + z$. Here $z$ is the least-squares
    solution of least norm for the operator $A N$ and the vector $b - A C^+ d$. It lies
    in the null space of $C$ by itself. Each of the two solves has its own derivatives.

    **Returns:** the solution, the multipliers $-(C^H)^+ (A^H (A x - b) + \lambda^2 x)$,
    and statistics, with `"constraint_norm"` for $\|C x - d\|$ and, for the normal
    residual, what the multipliers leave of it.
    """
    equations = Problem(constraint.operator, constraint.target)
    C = equations.operator
    inner = accurate_solver((C.in_structure(), C.out_structure()))
    implicit = ImplicitAdjoint()
    particular, first = implicit.solve(equations, inner, throw=throw)
    # A vector that is mere rounding has no accurate projection and needs none, so no
    # projection raises. The verdict at the end judges the result.
    project = NullSpaceProjector(C, inner, throw=False)

    reduced = algebra.compose(problem.operator, project)
    target = problem.residual(particular.primal)
    rest, back = Problem(reduced, target, problem.damp), None
    if x0 is not None:
        rest, back = warm_start(rest, project.mv(tree.sub(x0, particular.primal)))
    solution, stats = adjoint.solve(rest, solver, throw=throw)
    solution = solution if back is None else back(solution)
    # z is in the null space up to the accuracy of the solve; x has to be so exactly.
    x = tree.add(particular.primal, project.mv(solution.primal))
    residual = problem.residual(x)
    descent = tree.neg(problem.gradient(x, residual))
    dual, _ = implicit.solve(Problem(C.H, descent), inner, throw=False)

    gap = equations.residual(x)
    now = gather(
        problem,
        x,
        residual=residual,
        gradient=dual.residual,
        operator_norm=stats["operator_norm"],
    )
    reason = StopReason.where(
        is_failure(first["stop_reason"]), first["stop_reason"], stats["stop_reason"]
    )
    # The solver has judged z by its own tolerances. x cannot be better than what was
    # reached there.
    asked = Tolerances.half_the_digits(problem, stats["normal_residual_norm"])
    reason = verdict(reason, now, asked, digits=False)
    possible = is_failure(reason) | feasible(equations, x, gap)
    reason = StopReason.where(possible, reason, StopReason.infeasible)
    stats: dict[str, Any] = {
        **stats,
        "residual_norm": tree.norm(residual),
        "normal_residual_norm": now.normal_residual_norm,
        "constraint_norm": tree.norm(gap),
        "stop_reason": reason,
    }
    solution = checked(PrimalDual(x, None, residual), reason, throw)
    return solution, dual.primal, stats
