r"""The step nearest to a proposed one that obeys linearised constraints.

For a proposal Δ, positive weights $W = M^{-1}$ and conditions $J \delta + t = 0$ or
≤ 0,

$$\min_\delta \tfrac12 \|\delta - \Delta\|_M^2 \quad\Rightarrow\quad
  \delta = \Delta - W J^T y, \qquad
  W^{1/2} J^T y = (J W^{1/2})^+ (J \Delta + t),$$

a least-norm problem whose dual `y` are the multipliers.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._outcome import StopReason, is_failure
from .._tree import Vector
from .active_set import Rules, active_set
from .least_norm import least_norm
from .linearisation import (
    Flags,
    Linearisation,
    Rates,
    scaled_columns,
    select,
    some_rows,
    times,
)

Scalar = Float[Array, ""]


class Step(eqx.Module):
    """A step, the dual of its correction, and how the solve went.

    `tangential` is the share of the dual that corrects the proposal. The rest of it
    restores the constraint. `normal` is that share of `Jᵀ y`. `active` are the rows
    that were held.
    """

    update: Vector
    dual: Vector | None
    tangential: Scalar
    normal: Vector | None
    active: Flags | None
    num_steps: Int[Array, ""]
    reason: StopReason


def constrained_step(
    problem: Linearisation,
    params: Vector,
    proposal: Vector,
    *,
    weights: Vector | None,
    rates: Rates,
    solver: lx.AbstractLinearSolver,
    guess: Vector | None,
    active: Flags | None,
    rules: Rules,
) -> Step:
    """Solve for the step.

    **Arguments:**

    - `problem`, `params`: the constraint at the parameters.
    - `proposal`: Δ, with the structure of the parameters.
    - `weights`: the diagonal of W; None for the identity.
    - `rates`: how much of the violation is to be removed.
    - `solver`: the solver to use; it must handle any shape and rank.
    - `guess`: multipliers to start from, of any scale; None for zero.
    - `active`: the rows to hold at first; None without inequalities.
    - `rules`: which rows may be held after that.
    """
    eps = float(jnp.finfo(tree.storage_dtype(params)).eps)
    delta = problem.free(proposal, rates)
    jacobian, residual = problem.jacobian, problem.residual
    if jacobian is None or residual is None:
        none, zero = jnp.zeros_like(rates.violation), jnp.zeros((), jnp.int32)
        return Step(delta, None, none, None, None, zero, StopReason.direct)
    roots, scale = problem.roots(weights, params)
    image = jacobian.mv(delta)
    target = problem.target(image, rates)
    # NaN compares as if an inequality held.
    finite = jnp.isfinite(tree.norm(target))

    operator = scaled_columns(jacobian, roots)
    if active is None:
        x, dual, gap, num_steps, reason = least_norm(operator, target, guess, solver)
    else:
        guess = tree.zeros_like(residual) if guess is None else guess
        dual, active, num_steps, reason = active_set(
            operator, target, guess, solver, active=active, rules=rules
        )
        operator = some_rows(active, operator)
        target = select(active, target)
        x = operator.rmv(dual)
        gap = tree.sub(target, operator.mv(x))
    share = tree.inner(target, image) * tree.safe_reciprocal(tree.inner(target, target))
    if rates.share is not None:
        share *= rates.share.astype(share.dtype)
    # More than all of it, where the restoring part points the other way.
    share = jnp.clip(share, 0, 2)
    inverse = tree.safe_reciprocal(scale)
    rounding = lambda: 100 * eps * tree.norm(jacobian.mv(params))
    reason = _honest(reason, gap, target, operator, rounding)
    reason = StopReason.where(
        finite | is_failure(reason), reason, StopReason.nonfinite_input
    )
    return Step(
        update=tree.sub(delta, times(roots, x)),
        dual=tree.scale(inverse, dual),
        tangential=share,
        normal=tree.scale(share * inverse, _unscaled(x, roots)),
        active=active,
        num_steps=num_steps,
        reason=reason,
    )


def _unscaled(x: Vector, roots: Vector | None) -> Vector:
    """`Jᵀ y` of what is free to move, from `W½ Jᵀ y`."""
    if roots is None:
        return x
    return jax.tree.map(
        lambda v, r: v * tree.safe_reciprocal(r.astype(v.dtype)), x, roots
    )


def _honest(
    reason: StopReason,
    gap: Vector,
    target: Vector,
    operator: AbstractOperator,
    rounding: Callable[[], Scalar],
) -> StopReason:
    """The reason, or `infeasible` where the linearised constraints cannot be met.

    Then what is left, `gap`, is more than rounding. And it is a least-squares residual
    to three digits: a solver that stopped earlier cannot tell.
    """
    left, size = tree.norm(gap), tree.norm(target)
    suspicious = left > 0.1 * size

    def contradictory() -> Bool[Array, ""]:
        steepness = tree.norm(operator.rmv(target)) * left
        stationary = tree.norm(operator.rmv(gap)) * size <= 1e-3 * steepness
        return (left > rounding()) & stationary

    found = jax.lax.cond(suspicious, contradictory, lambda: jnp.array(False))
    reason = StopReason.where(
        is_failure(reason) | ~found, reason, StopReason.infeasible
    )
    finite = jnp.isfinite(left) & jnp.isfinite(size)
    return StopReason.where(finite | is_failure(reason), reason, StopReason.nonfinite)
