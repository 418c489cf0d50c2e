"""One way to run any solver, ours or lineax's."""

from typing import Any

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._operator.structure.damped import Damped
from .._solution import PrimalDual, StopReason, from_lineax
from .._tree import Vector
from .base import AbstractSolver

Scalar = Float[Array, ""]


def run(
    solver: lx.AbstractLinearSolver,
    operator: AbstractOperator,
    vector: Vector,
    damp: Scalar | None,
) -> tuple[PrimalDual, dict[str, Any]]:
    """The primal–dual solve of which every value and every derivative consists."""
    if isinstance(solver, AbstractSolver):
        return solver.run(operator, vector, damp)
    return _run_lineax(solver, operator, vector, damp)


def _run_lineax(
    solver: lx.AbstractLinearSolver,
    operator: AbstractOperator,
    vector: Vector,
    damp: Scalar | None,
) -> tuple[PrimalDual, dict[str, Any]]:
    """The primal by one of lineax's solvers, the dual by its transpose, both checked.

    Damping is solved as the stacked operator `[A; λ I]`.
    """
    problem, rhs = operator, vector
    if damp is not None:
        problem = Damped(operator, damp)
        rhs = (vector, tree.zeros(operator.in_structure()))
    # The type of a solver's state is its own affair.
    method: Any = solver
    if isinstance(solver, lx.Cholesky) and not lx.is_positive_semidefinite(problem):
        method = lx.Normal(solver)
    options: dict[str, Any] = {}
    state = method.init(problem, options)
    x, result, own_stats = method.compute(state, rhs, options)

    # x = Aᴴ y for y = (Aᴴ)⁺ x; damped, y = r / λ².
    adjoint_state, _ = method.conj(*method.transpose(state, options))
    y, _, _ = method.compute(adjoint_state, x, options)
    residual = tree.sub(vector, operator.mv(x))
    normal_residual = operator.adjoint_mv(residual)
    if damp is not None:
        normal_residual = tree.axpy(-damp * damp, x, normal_residual)
        inverse = tree.safe_reciprocal(damp * damp)
        y = tree.where(damp == 0, y[0], tree.scale(inverse, residual))

    residual_norm = tree.norm(residual)
    normal_residual_norm = tree.norm(normal_residual)
    vector_norm, solution_norm = tree.norm(vector), tree.norm(x)
    operator_norm = jnp.maximum(
        tree.norm(operator.mv(x)) * tree.safe_reciprocal(solution_norm),
        tree.norm(operator.adjoint_mv(vector)) * tree.safe_reciprocal(vector_norm),
    )
    eps = jnp.finfo(tree.storage_dtype((vector, operator.in_structure()))).eps
    # A factorisation loses up to half the digits here before it is called wrong.
    bound = 10 * eps**0.5 * operator_norm * vector_norm
    reason = from_lineax(result)
    solved = reason == StopReason.direct
    inaccurate = solved & (normal_residual_norm > bound)
    reason = StopReason.where(inaccurate, StopReason.inaccurate, reason)
    finite = jnp.isfinite(normal_residual_norm) & jnp.isfinite(solution_norm)
    reason = StopReason.where(finite, reason, StopReason.nonfinite)
    reason = StopReason.where(
        jnp.isfinite(vector_norm), reason, StopReason.nonfinite_input
    )
    stats = {
        "num_steps": jnp.asarray(own_stats.get("num_steps", 0), jnp.int32),
        "residual_norm": residual_norm,
        "normal_residual_norm": normal_residual_norm,
        "operator_norm": operator_norm,
        "condition": jnp.full_like(residual_norm, jnp.nan),
        "relative_error": jnp.full_like(residual_norm, jnp.nan),
        "stop_reason": reason,
    }
    return PrimalDual(x, y, residual), stats
