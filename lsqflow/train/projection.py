"""The two ways to make an optimiser's step obey a constraint.

With a diagonal metric, one projection after the optimiser. Without, one before it and
one after: the optimiser then sees no gradient at a constrained optimum, whatever it
does with gradients.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, Int

from .. import _tree as tree
from .._solution import StopReason
from .._tree import Vector
from .linearisation import Flags, Linearisation, like, widen
from .metric import Metric, Update
from .state import NullSpaceState
from .step import Rules, Step, constrained_step

Scalar = Float[Array, ""]
# Users who do not compile their loop get at least this compiled.
_constrained_step = eqx.filter_jit(constrained_step)


class Outcome(eqx.Module):
    """What one step of training brings forth; names as in `NullSpaceState`."""

    proposal: Any
    update: Vector
    inner_state: Any
    multipliers: Vector | None
    correction: Vector | None
    active: Flags | None
    num_steps: Int[Array, ""]
    stop_reason: StopReason


class Projection(eqx.Module):
    """A linearised constraint at the parameters, and how to project with it."""

    problem: Linearisation
    params: Vector
    rate: Scalar
    solver: lx.AbstractLinearSolver

    def after(
        self,
        proposal: Vector,
        state: NullSpaceState,
        *,
        weights: Vector | None,
        guess: Vector | None,
        held: Flags | None = None,
    ) -> Step:
        """The step nearest to a proposed one; `held` rows are equations in it."""
        always, active = self.problem.equation, state.active
        if held is not None:
            always = active = jax.tree.map(jnp.logical_or, always, held)
        return _constrained_step(
            *(self.problem, self.params, proposal),
            weights=weights,
            rate=self.rate,
            solver=self.solver,
            guess=guess,
            active=active,
            rules=Rules(always),
        )

    def before(self, gradient: Vector, state: NullSpaceState) -> Step:
        """The steepest descent that keeps the rows held so far."""
        problem = self.problem
        zeros = jax.tree.map(jnp.zeros_like, (problem.gap, problem.residual))
        still = eqx.tree_at(
            lambda p: (p.gap, p.residual), problem, zeros, is_leaf=lambda x: x is None
        )
        return _constrained_step(
            *(still, self.params, tree.neg(gradient)),
            weights=None,
            rate=self.rate,
            solver=self.solver,
            guess=state.multipliers,
            active=state.active,
            rules=Rules(problem.equation, allowed=state.active),
        )


def in_metric(
    projection: Projection,
    metric: Metric,
    update: Callable[[Any, Any], tuple[Any, Any]],
    gradient: Any,
    state: NullSpaceState,
) -> Outcome:
    """The optimiser's step, projected in its metric: one solve."""
    proposal, inner_state = update(gradient, state.inner_state)
    wide, weights = widen(proposal), None
    if projection.problem.jacobian is not None:
        weights = metric.weights(
            *(update, gradient, state.inner_state, inner_state, projection.params)
        )
    step = projection.after(wide, state, weights=weights, guess=state.multipliers)
    multipliers = step.dual
    if weights is not None:
        size = metric.step_size(wide, widen(gradient), weights)
        multipliers = tree.scale(tree.safe_reciprocal(size), multipliers)
    return Outcome(
        proposal,
        step.update,
        inner_state,
        multipliers,
        None,
        step.active,
        step.num_steps,
        step.reason,
    )


def between_projections(
    projection: Projection, update: Update, gradient: Any, state: NullSpaceState
) -> Outcome:
    """The optimiser's step along the constraint, then corrected: two solves."""
    first = projection.before(widen(gradient), state)
    tangent = like(gradient, tree.neg(first.update))
    proposal, inner_state = update(tangent, state.inner_state)
    step = projection.after(
        widen(proposal), state, weights=None, guess=state.correction, held=first.active
    )
    return Outcome(
        proposal,
        step.update,
        inner_state,
        first.dual,
        step.dual,
        step.active,
        first.num_steps + step.num_steps,
        step.reason,
    )
