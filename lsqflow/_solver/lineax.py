"""Solvers of lineax as solvers of ours."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from .. import _tree as tree
from .._jax import explicit_sharding
from .._operator.display import brief
from .._outcome import StopReason, from_lineax, is_failure
from .._problem.problem import Problem
from .._problem.rewrite import damped_rows
from .._solution import PrimalDual
from .._tree import Vector
from .base import AbstractSolver, Stats
from .verdict import Tolerances, gather, norm_estimate, verdict

Scalar = Float[Array, ""]

# These need products only, and stop by tolerances of their own.
_ITERATIVE = (lx.CG, lx.GMRES, lx.BiCGStab, lx.LSMR)
# A solution that is this far, relatively, from every Aᴴ y is not the one of least norm.
_OFF_RANGE = 0.02


class LineaxSolver(AbstractSolver):
    """Any solver of lineax. It computes the solution, and its transpose the dual.

    A damped problem is solved as the stacked operator `[A; λ I]`.
    """

    solver: lx.AbstractLinearSolver

    def run(self, problem: Problem) -> tuple[PrimalDual, Stats]:
        _require_fit(self.solver, problem)
        # LAPACK may not return from an infinity: it gets zeros, and the user gets NaN.
        finite = all_finite(problem)
        problem = _masked(problem, finite)
        rows, back = damped_rows(problem)
        # The type of a solver's state is its own affair.
        method: Any = _suited(self.solver, rows)
        options: dict[str, Any] = {}
        state = method.init(rows.operator, options)
        x, result, own_stats = method.compute(state, rows.vector, options)

        # x = Aᴴ y for y = (Aᴴ)⁺ x. Not by `conj` of lineax's solvers: that of LU undoes
        # the transposition. Nor by `transpose` of `Normal`, which breaks down with CG.
        iterative = isinstance(_innermost(self.solver), _ITERATIVE)
        if iterative:
            transposed = method.init(rows.operator.transpose(), options)
        else:
            transposed, _ = method.transpose(state, options)
        # An operator that solves inside may raise at NaN, so it sees zeros instead.
        x, found = _zero_unless_finite(x)
        y, _, _ = method.compute(transposed, tree.conj(x), options)
        y, also_found = _zero_unless_finite(tree.conj(y))
        found &= also_found
        solution = back(PrimalDual(x, y, rows.residual(x)))

        residual = solution.residual
        now = gather(
            problem,
            x,
            residual=residual,
            gradient=problem.gradient(x, residual),
            operator_norm=norm_estimate(problem, x, tree.sub(problem.vector, residual)),
        )
        claim = from_lineax(result)
        if not iterative:
            # A method for full rank can find a minimizer of another norm.
            off = tree.norm(tree.sub(x, rows.operator.adjoint_mv(y)))
            claim = StopReason.where(
                ~is_failure(claim) & (off > _OFF_RANGE * now.solution_norm),
                StopReason.failed,
                claim,
            )
        reason = verdict(claim, now, _tolerances(self.solver, problem))
        unknown = jnp.full_like(now.residual_norm, jnp.nan)
        reason = StopReason.where(
            found | is_failure(claim), reason, StopReason.nonfinite
        )
        solution = jax.tree.map(
            lambda v: jnp.where(finite & found, v, jnp.full_like(v, jnp.nan)), solution
        )
        return solution, {
            "num_steps": jnp.asarray(own_stats.get("num_steps", 0), jnp.int32),
            "residual_norm": tree.norm(residual),
            "normal_residual_norm": now.normal_residual_norm,
            "operator_norm": now.operator_norm,
            "condition": unknown,
            "relative_error": unknown,
            "stop_reason": StopReason.where(finite, reason, StopReason.nonfinite_input),
        }


def as_solver(solver: lx.AbstractLinearSolver) -> AbstractSolver:
    """A solver of ours, from one of ours or of lineax."""
    require_solver(solver)
    return solver if isinstance(solver, AbstractSolver) else LineaxSolver(solver)


def require_solver(solver: Any, name: str = "solver") -> None:
    """Raise a `TypeError` for what is no solver."""
    if not isinstance(solver, lx.AbstractLinearSolver):
        raise TypeError(
            f"`{name}` must be an lsqflow or lineax solver, such as `lsqflow.LSMR()`; "
            f"got {solver!r}."
        )


def can_factorize(operator: lx.AbstractLinearOperator) -> bool:
    """Whether LAPACK has the dtype, and the matrix is all in one place."""
    arrays = [x for x in jax.tree.leaves(operator) if eqx.is_array(x)]
    return not (any(map(explicit_sharding, arrays)) or _is_half(operator))


def all_finite(tree_of_arrays: Any) -> Bool[Array, ""]:
    """Whether no number of a problem, or of a vector, is NaN or infinite."""
    finite = jnp.ones((), bool)
    for x in jax.tree.leaves(tree_of_arrays):
        if eqx.is_array(x) and jnp.issubdtype(x.dtype, jnp.inexact):
            finite &= jnp.all(jnp.isfinite(x))
    return finite


def _zero_unless_finite(x: Vector) -> tuple[Vector, Bool[Array, ""]]:
    finite = all_finite(x)
    return tree.where(finite, x, tree.zeros_like(x)), finite


def _masked(problem: Problem, finite: Bool[Array, ""]) -> Problem:
    """The problem, with zeros for all its numbers unless it is finite."""

    def leaf(x: Any) -> Any:
        if not eqx.is_inexact_array(x):
            return x
        return jnp.where(finite, x, jnp.zeros_like(x))

    return jax.tree.map(leaf, problem)


def _is_half(operator: lx.AbstractLinearOperator) -> bool:
    dtype = tree.storage_dtype((operator.in_structure(), operator.out_structure()))
    return jnp.finfo(dtype).bits < 32


def _suited(solver: lx.AbstractLinearSolver, rows: Problem) -> lx.AbstractLinearSolver:
    """Cholesky on the normal equations, unless the operator is known to be positive."""
    if isinstance(solver, lx.Cholesky):
        operator = rows.operator
        if not (
            lx.is_positive_semidefinite(operator)
            or lx.is_negative_semidefinite(operator)
        ):
            return lx.Normal(solver)
    return solver


def _innermost(solver: lx.AbstractLinearSolver) -> Any:
    """The solver that does the work, inside `lineax.Normal`."""
    return _innermost(solver.inner_solver) if isinstance(solver, lx.Normal) else solver


def _tolerances(solver: lx.AbstractLinearSolver, problem: Problem) -> Tolerances:
    """What a solver was asked for: its tolerances, or half the digits."""
    inner = _innermost(solver)
    if not isinstance(inner, _ITERATIVE):
        return Tolerances.half_the_digits(problem)
    # Lineax compares entries, by default, where we compare norms.
    root = tree.size(problem.vector) ** 0.5
    rtol = jnp.maximum(inner.rtol, problem.eps**0.5)
    return Tolerances.of(problem, rtol * root, inner.atol * root)


def _require_fit(solver: lx.AbstractLinearSolver, problem: Problem) -> None:
    """Raise a `TypeError` where LAPACK or lineax would raise a less helpful error."""
    name, operator = type(solver).__name__, problem.operator
    ends = operator.in_structure(), operator.out_structure()
    between = f"{brief(ends[0])} to {brief(ends[1])}"
    if _is_half(operator):
        raise TypeError(
            f"`{name}` works in single or double precision, and this operator has "
            f"half: {between}. Use `lsqflow.LSMR()`, or convert operator and vector "
            "with `.astype(jnp.float32)`."
        )
    if len({tree.is_complex(x) for x in jax.tree.leaves(ends)}) > 1:
        raise TypeError(
            f"`{name}` needs a matrix. An operator from {between} has none: it is "
            "linear over the real numbers only. Use `lsqflow.LSMR()`."
        )
