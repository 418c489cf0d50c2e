r"""The step nearest to a proposed one that obeys linearised constraints.

For a proposal Δ, positive weights $W = M^{-1}$ and conditions $J \delta + t = 0$ or
≤ 0,

$$\min_\delta \tfrac12 \|\delta - \Delta\|_M^2 \quad\Rightarrow\quad
  \delta = \Delta - W J^T y, \qquad
  W^{1/2} J^T y = (J W^{1/2})^+ (J \Delta + t),$$

a least-norm problem whose dual `y` are the multipliers. Inequalities are solved by the
primal–dual active-set method (Hintermüller, Ito and Kunisch, 2002), which starts from
the active set of the last step of training and then takes one solve, as a rule.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int

from .. import _tree as tree
from .._adjoint import ImplicitAdjoint
from .._operator.base import AbstractOperator
from .._solution import StopReason, is_failure
from .._tree import Vector
from .linearisation import Flags, Linearisation, Rates, Scaled, select, times

Scalar = Float[Array, ""]
# Rounds of the active-set method. It ends by itself; this is for cycles, which only
# strongly coupled inequalities can cause.
_MAX_ROUNDS = 20


class Step(eqx.Module):
    """A step, the dual of its correction, and how the solve went.

    `tangential` is the share of the dual that corrects the proposal; the rest restores
    the constraint. `normal` is that share of `Jᵀ y`, and `active` the rows that were
    held.
    """

    update: Vector
    dual: Vector | None
    tangential: Scalar
    normal: Vector | None
    active: Flags | None
    num_steps: Int[Array, ""]
    reason: StopReason


class Rules(eqx.Module):
    """Which rows are equations in this step, and which may become active at all."""

    always: Flags | None
    allowed: Flags | None = None

    def next(self, active: Flags, dual: Vector, slack: Vector, noise: Scalar) -> Flags:
        """Rows to be held next: multipliers of the right sign, or violated without."""
        largest = jnp.max(jnp.stack([jnp.max(abs(y)) for y in jax.tree.leaves(dual)]))
        eps = jnp.finfo(tree.storage_dtype(dual)).eps

        def leaf(held: Array, y: Array, s: Array, always: Array) -> Array:
            pushes = y > (-(float(eps) ** 0.75) * largest).astype(y.dtype)
            return always | jnp.where(held, pushes, s > noise.astype(s.dtype))

        rows = jax.tree.map(leaf, active, dual, slack, self.always)
        if self.allowed is None:
            return rows
        allowed = jax.tree.map(jnp.logical_or, self.allowed, self.always)
        return jax.tree.map(jnp.logical_and, rows, allowed)


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
    - `solver`: who solves; it must handle any shape and rank.
    - `guess`: multipliers of any scale, to start from; None for zero.
    - `active`: the first active set; None without inequalities.
    """
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

    operator = Scaled(jacobian, roots, None)
    if active is None:
        x, dual, gap, num_steps, reason = _solve(operator, target, guess, solver)
    else:
        guess = tree.zeros_like(residual) if guess is None else guess
        dual, active, num_steps, reason = _active_set(
            operator, target, guess, solver, active=active, rules=rules
        )
        operator = Scaled(jacobian, roots, active)
        target = select(active, target)
        x = operator.rmv(dual)
        gap = tree.sub(target, operator.mv(x))
    share = tree.inner(target, image) * tree.safe_reciprocal(tree.inner(target, target))
    if rates.share is not None:
        share *= rates.share.astype(share.dtype)
    # More than all of it, where the restoring part points the other way.
    share = jnp.clip(share, 0, 2)
    inverse = tree.safe_reciprocal(scale)
    reason = _honest(reason, gap, target, operator, params)
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


def _solve(
    operator: AbstractOperator,
    target: Vector,
    guess: Vector | None,
    solver: lx.AbstractLinearSolver,
) -> tuple[Vector, Vector, Vector, Int[Array, ""], StopReason]:
    """The least-norm solution, from a guess of its dual up to a factor.

    The factor is the best one, so that no guess is worse than zero; a change of the
    step size or of the metric costs nothing.
    """
    if guess is None:
        solution, stats = ImplicitAdjoint().solve(
            operator, target, None, solver, throw=False
        )
        result = solution.primal, solution.dual, solution.residual
        return *result, stats["num_steps"], stats["stop_reason"]
    guess = jax.lax.stop_gradient(guess)
    start = operator.rmv(guess)
    image = operator.mv(start)
    factor = tree.inner(image, target) * tree.safe_reciprocal(tree.inner(image, image))
    remainder = tree.axpy(-factor, image, target)
    # Below rounding there is nothing to solve for.
    eps = float(jnp.finfo(tree.storage_dtype(target)).eps)
    rounding = tree.norm(remainder) <= 10 * eps * tree.norm(target)
    remainder = tree.where(rounding, tree.zeros_like(remainder), remainder)
    solution, stats = ImplicitAdjoint().solve(
        operator, remainder, None, solver, throw=False
    )
    x = tree.axpy(factor, start, solution.primal)
    dual = tree.axpy(factor, guess, solution.dual)
    return x, dual, solution.residual, stats["num_steps"], stats["stop_reason"]


def _active_set(
    everything: Scaled,
    target: Vector,
    guess: Vector,
    solver: lx.AbstractLinearSolver,
    *,
    active: Flags,
    rules: Rules,
) -> tuple[Vector, Flags, Int[Array, ""], StopReason]:
    """The multipliers of the quadratic program, and its active rows.

    Which rows are active is not differentiated.
    """
    eps = float(jnp.finfo(tree.storage_dtype(target)).eps)
    noise = eps**0.75 * tree.norm(target)

    def solve(carry: Any) -> Any:
        active, dual, _, rounds, num_steps, _, _ = carry
        operator = Scaled(everything.jacobian, everything.roots, active)
        x, dual, _, more, reason = _solve(
            operator, select(active, target), select(active, dual), solver
        )
        dual = select(active, dual)
        slack = tree.sub(target, everything.mv(x))
        following = rules.next(active, dual, slack, noise)
        settled = _same(active, following)
        return following, dual, active, rounds + 1, num_steps + more, reason, settled

    def unsettled(carry: Any) -> Bool[Array, ""]:
        return ~carry[-1] & (carry[3] < _MAX_ROUNDS)

    zero = jnp.zeros((), jnp.int32)
    carry = (active, guess, active, zero, zero, StopReason.running, jnp.array(False))
    carry = jax.lax.while_loop(unsettled, solve, carry)
    _, dual, solved, _, num_steps, reason, settled = carry
    reason = StopReason.where(
        settled | is_failure(reason), reason, StopReason.max_steps_reached
    )
    return dual, solved, num_steps, reason


def _unscaled(x: Vector, roots: Vector | None) -> Vector:
    """`Jᵀ y` of what is free to move, from `W½ Jᵀ y`."""
    if roots is None:
        return x
    return jax.tree.map(
        lambda v, r: v * tree.safe_reciprocal(r.astype(v.dtype)), x, roots
    )


def _same(first: Flags, second: Flags) -> Bool[Array, ""]:
    equal = jax.tree.map(lambda a, b: jnp.all(a == b), first, second)
    return jnp.all(jnp.stack(jax.tree.leaves(equal)))


def _honest(
    reason: StopReason, gap: Vector, target: Vector, operator: Scaled, params: Vector
) -> StopReason:
    """Infeasible where the linearised constraints cannot be met.

    What is left must be more than rounding, and a least-squares residual to three
    digits: a solver that was asked for less does not know.
    """
    eps = float(jnp.finfo(tree.storage_dtype(params)).eps)
    left, size = tree.norm(gap), tree.norm(target)
    suspicious = left > 0.1 * size

    def contradictory() -> Bool[Array, ""]:
        rounding = 100 * eps * tree.norm(operator.jacobian.mv(params))
        steepness = tree.norm(operator.rmv(target)) * left
        stationary = tree.norm(operator.rmv(gap)) * size <= 1e-3 * steepness
        return (left > rounding) & stationary

    found = jax.lax.cond(suspicious, contradictory, lambda: jnp.array(False))
    reason = StopReason.where(
        is_failure(reason) | ~found, reason, StopReason.infeasible
    )
    finite = jnp.isfinite(left) & jnp.isfinite(size)
    return StopReason.where(finite | is_failure(reason), reason, StopReason.nonfinite)
