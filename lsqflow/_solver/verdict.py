"""When to stop, and whether the stop was justified: one logic for every solver."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _tree as tree
from .._krylov.estimates import Estimates
from .._krylov.golub_kahan import LinearPair, Pair
from .._solution import PrimalDual, StopReason
from .._tree import Vector

Scalar = Float[Array, ""]

# How far true residuals may lie above the recurrence's before a solve is called
# inaccurate; the estimates drift by small factors as orthogonality is lost.
_SLACK = 10.0
# Residuals below this many units of rounding, relative to ‖A‖ ‖x‖ + ‖b‖, are noise.
_NOISE = 10.0
# A solve that asks for more than half the digits of its dtype, and has an estimated
# error of this much of its solution, has failed, however small its residuals are.
_NO_DIGITS = 0.02


class Tolerances(eqx.Module):
    """The stopping rule of Paige and Saunders (1982), in the problem's scalar dtype.

    consistent:    ‖r‖ ≤ atol + rtol (‖A‖ ‖x‖ + ‖b‖)
    least squares: ‖Aᴴ r − λ² x‖ ≤ atol + rtol ‖A‖ ‖r‖
    condition:     cond(A) ≥ conlim

    SciPy's `atol = btol` is `rtol` here; SciPy has nothing like our `atol`, which is
    in the units of ‖r‖ and ‖Aᴴ r‖.
    """

    rtol: Scalar
    atol: Scalar
    conlim: Scalar
    eps: float = eqx.field(static=True)

    def reason(
        self, now: Estimates, solution_norm: Scalar, vector_norm: Scalar
    ) -> StopReason:
        """The first rule that holds; the most welcome one where several do."""
        size = now.operator_norm * solution_norm + vector_norm
        normal_size = now.operator_norm * now.residual_norm
        rules = (
            (now.largest >= self.conlim * now.smallest, StopReason.condition_limit),
            (
                (now.normal_residual_norm <= 0.5 * self.eps * normal_size)
                | (now.residual_norm <= 0.5 * self.eps * size),
                StopReason.precision,
            ),
            (
                now.normal_residual_norm <= self.atol + self.rtol * normal_size,
                StopReason.least_squares,
            ),
            (now.residual_norm <= self.atol + self.rtol * size, StopReason.consistent),
            (~jnp.isfinite(now.normal_residual_norm), StopReason.nonfinite),
        )
        reason = StopReason.running
        for holds, candidate in rules:
            reason = StopReason.where(holds, candidate, reason)
        return reason


def verdict(
    operator: LinearPair,
    vector: Vector,
    damp: Scalar | None,
    iterate: Pair,
    *,
    estimates: Estimates,
    tolerances: Tolerances,
    reason: StopReason,
) -> tuple[PrimalDual, dict[str, Any]]:
    """Compute the true residuals, finish the dual, and correct a false success."""
    x = iterate.v
    residual = tree.sub(vector, operator.mv(x))
    normal_residual = operator.adjoint_mv(residual)
    if damp is not None:
        normal_residual = tree.axpy(-damp * damp, x, normal_residual)
    residual_norm = tree.norm(residual)
    normal_residual_norm = tree.norm(normal_residual)
    solution_norm = tree.norm(x)
    size = estimates.operator_norm * solution_norm + tree.norm(vector)
    noise = _NOISE * tolerances.eps * size

    # Each rule again, with the true residuals. The normal residual cannot be computed
    # to better than ‖A‖ times the rounding of the residual.
    damped_norm = residual_norm
    if damp is not None:
        damped_norm = jnp.hypot(residual_norm, damp * solution_norm)
    consistent = (
        damped_norm <= _SLACK * (tolerances.atol + tolerances.rtol * size) + noise
    )
    least_squares = normal_residual_norm <= (
        _SLACK
        * (tolerances.atol + tolerances.rtol * estimates.operator_norm * damped_norm)
        + estimates.operator_norm * noise
    )
    claimed = (
        (reason == StopReason.consistent)
        | (reason == StopReason.least_squares)
        | (reason == StopReason.precision)
    )
    # x* − x = A⁺ r = (Aᴴ A)⁺ (normal residual), bounded by what is known of ‖A⁺‖.
    inverse_norm = estimates.inverse_norm
    error = jnp.minimum(
        damped_norm * inverse_norm, normal_residual_norm * inverse_norm * inverse_norm
    ) * tree.safe_reciprocal(solution_norm)
    demanding = tolerances.rtol < tolerances.eps**0.5
    hollow = demanding & (error > jnp.maximum(_NO_DIGITS, _SLACK * tolerances.rtol))
    false_claim = claimed & (~(consistent | least_squares) | hollow)
    reason = StopReason.where(false_claim, StopReason.inaccurate, reason)
    finite = jnp.isfinite(normal_residual_norm) & jnp.isfinite(solution_norm)
    broken = ~finite & (reason != StopReason.nonfinite_input)
    reason = StopReason.where(broken, StopReason.nonfinite, reason)

    inconsistent = claimed & least_squares & ~consistent
    if damp is None:
        dual = _without_residual(iterate.q, residual, inconsistent)
    else:
        dual = _without_residual(iterate.q, residual, inconsistent & (damp == 0))
        dual = _with_null_part(dual, residual, damp, noise)
    stats = {
        "residual_norm": residual_norm,
        "normal_residual_norm": normal_residual_norm,
        "operator_norm": estimates.operator_norm,
        "condition": estimates.condition,
        "relative_error": error,
        "stop_reason": reason,
    }
    return PrimalDual(x, dual, residual), stats


def _without_residual(y: Vector, residual: Vector, inconsistent: Array) -> Vector:
    """Undamped: `y` is orthogonal to null(Aᴴ).

    The recurrence leaves a multiple of `r` where the system is inconsistent. Where it
    is consistent, `r` is rounding noise, and projecting on noise destroys `y`.
    """
    share = tree.inner(residual, y) * tree.safe_reciprocal(
        tree.inner(residual, residual)
    )
    return tree.axpy(jnp.where(inconsistent, -share, 0), residual, y)


def _with_null_part(y: Vector, residual: Vector, damp: Scalar, noise: Scalar) -> Vector:
    """Damped: `y = r / λ²`, of which the recurrence has only the part in range(A).

    It has that part to higher accuracy than `r / λ²`, by up to (‖A‖ / λ)². So the gap
    `e = r − λ² y` is added only where it is above rounding, that is, where there is a
    part in null(Aᴴ).
    """
    gap = tree.axpy(-damp * damp, y, residual)
    weight = jnp.where(tree.norm(gap) > noise, tree.safe_reciprocal(damp * damp), 0)
    return tree.axpy(weight, gap, y)
