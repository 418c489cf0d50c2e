"""Inequalities: which rows of a constraint are held in a step.

This is the primal–dual active-set method of Hintermüller, Ito and Kunisch (2002). It
starts from the rows that were held in the last step of training, and then usually takes
one solve.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._outcome import StopReason, is_failure
from .._tree import Vector
from .least_norm import least_norm
from .linearisation import Flags, select, some_rows

Scalar = Float[Array, ""]
# The method ends by itself, except for cycles, which strongly coupled rows can cause.
_MAX_ROUNDS = 20


class Rules(eqx.Module):
    """Which rows are always held in this step, and which may be held at all.

    `allowed` is None if all may be.
    """

    always: Flags | None
    allowed: Flags | None = None

    def next(self, active: Flags, dual: Vector, slack: Vector, noise: Scalar) -> Flags:
        """The rows to hold next: those that push, and those violated without."""
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


def active_set(
    everything: AbstractOperator,
    target: Vector,
    guess: Vector,
    solver: lx.AbstractLinearSolver,
    *,
    active: Flags,
    rules: Rules,
) -> tuple[Vector, Flags, Int[Array, ""], StopReason]:
    """Solve the quadratic program: least norm, subject to equations and inequalities.

    **Arguments:**

    - `everything`: the operator of all rows.
    - `target`: the right-hand side of all rows.
    - `guess`: multipliers to start from, of any scale.
    - `solver`: the solver to use for each set of rows.
    - `active`: the rows to hold at first.
    - `rules`: which rows may be held after that.

    **Returns:** the multipliers, the rows that are held, steps of the solver, and how
    it ended. Which rows are held is not differentiated.
    """
    eps = float(jnp.finfo(tree.storage_dtype(target)).eps)
    noise = eps**0.75 * tree.norm(target)

    def solve(carry: Any) -> Any:
        active, dual, _, rounds, num_steps, _, _ = carry
        x, dual, _, more, reason = least_norm(
            some_rows(active, everything),
            select(active, target),
            select(active, dual),
            solver,
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


def _same(first: Flags, second: Flags) -> Bool[Array, ""]:
    equal = jax.tree.map(lambda a, b: jnp.all(a == b), first, second)
    return jnp.all(jnp.stack(jax.tree.leaves(equal)))
