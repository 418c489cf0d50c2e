"""Least squares subject to linear equations, by the null-space method."""

from typing import Any

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from .. import _tree as tree
from .._derivative.adjoint import AbstractAdjoint, ImplicitAdjoint
from .._derivative.primal_dual import checked
from .._inverse import NullSpaceProjector, accurate_solver
from .._operator import algebra
from .._operator.base import AbstractOperator
from .._problem.rewrite import Problem, warm_start
from .._solution import PrimalDual, StopReason, is_failure
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
) -> tuple[PrimalDual, Vector, dict[str, Any]]:
    r"""Minimise $\|A x - b\|^2 + \lambda^2 \|x\|^2$ subject to $C x = d$.

    With $N = I - C^+ C$ the solution is $x = C^+ d + z$, where $z$ is the least-squares
    solution of least norm for the operator $A N$ and the vector $b - A C^+ d$; it lies
    in the null space by itself. Each of the two solves differentiates on its own.

    **Returns:** the solution, the multipliers $-(C^H)^+ (A^H (A x - b) + \lambda^2 x)$,
    and statistics, with `"constraint_norm"` for $\|C x - d\|$ and, for the normal
    residual, what the multipliers leave of it.
    """
    operator, vector, damp = problem
    C, d = constraint.operator, constraint.target
    inner = accurate_solver((C.in_structure(), C.out_structure()))
    implicit = ImplicitAdjoint()
    particular, first = implicit.solve(C, d, None, inner, throw=throw)
    # Vectors that are nothing but rounding have no accurate projection, and need none;
    # what counts is checked in the end.
    project = NullSpaceProjector(C, inner, throw=False)

    reduced = algebra.compose(operator, project)
    target = tree.sub(vector, operator.mv(particular.primal))
    rest, back = (reduced, target, damp), None
    if x0 is not None:
        guess = project.mv(tree.sub(x0, particular.primal))
        rest, back = warm_start(*rest, guess)
    solution, stats = adjoint.solve(*rest, solver, throw=throw)
    solution = solution if back is None else back(solution)
    # z is in the null space up to the accuracy of the solve; x has to be so exactly.
    x = tree.add(particular.primal, project.mv(solution.primal))
    residual = tree.sub(vector, operator.mv(x))

    descent = operator.adjoint_mv(residual)
    if damp is not None:
        descent = tree.axpy(-damp * damp, x, descent)
    dual, _ = implicit.solve(C.H, descent, None, inner, throw=False)

    gap = tree.norm(tree.sub(C.mv(x), d))
    reached = stats["normal_residual_norm"]
    stats = {
        **stats,
        "residual_norm": tree.norm(residual),
        "normal_residual_norm": tree.norm(dual.residual),
        "constraint_norm": gap,
    }
    reason = StopReason.where(
        is_failure(first["stop_reason"]), first["stop_reason"], stats["stop_reason"]
    )
    reason = StopReason.where(
        is_failure(reason) | _optimal(stats, reached, vector, x),
        reason,
        StopReason.inaccurate,
    )
    reason = StopReason.where(
        is_failure(reason) | feasible(gap, C, x, d), reason, StopReason.infeasible
    )
    stats = {**stats, "stop_reason": reason}
    return checked(PrimalDual(x, None, residual), stats, throw), dual.primal, stats


def _optimal(
    stats: dict[str, Any], reached: Scalar, vector: Vector, x: Vector
) -> Bool[Array, ""]:
    """Whether `Aᴴ r − λ² x` is `Cᴴ μ`: as far as the solver got, or to half the digits.

    The solver has compared what it reached with its tolerances, but in the null space
    as the projector sees it.
    """
    eps = float(jnp.finfo(tree.storage_dtype((x, vector))).eps)
    norm = stats["operator_norm"]
    noise = eps**0.75 * norm * (norm * tree.norm(x) + tree.norm(vector))
    bound = eps**0.5 * norm * stats["residual_norm"] + noise
    return stats["normal_residual_norm"] <= bound + 10 * reached


def feasible(
    gap: Scalar, operator: AbstractOperator, x: Vector, target: Vector
) -> Bool[Array, ""]:
    """Whether `C x = d` holds to half the digits of the dtype."""
    eps = jnp.finfo(tree.storage_dtype((x, target))).eps
    image = tree.norm(operator.mv(x))
    size = jnp.maximum(image, tree.norm(target))
    # ‖C‖ ‖x‖ bounds what rounding can do; one product with the rows estimates ‖C‖.
    back = tree.norm(operator.adjoint_mv(target)) * tree.safe_reciprocal(
        tree.norm(target)
    )
    size = jnp.maximum(size, back * tree.norm(x))
    return gap <= float(eps) ** 0.5 * size
