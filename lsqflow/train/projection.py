"""The two ways to make an optimizer's step obey a constraint.

With a diagonal metric, there is one projection, after the optimizer. Without one, there
is a projection of the gradient before the optimizer, and one of the update after it.
The optimizer then sees no gradient at a constrained optimum, whatever it does with
gradients.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, Int

from .. import _tree as tree
from .._outcome import StopReason
from .._tree import Vector
from .active_set import Rules
from .linearisation import Flags, Linearisation, Rates, like, widen
from .metric import AbstractMetric, OptimizerStep, Update, step_size
from .moments import add_to_momentum
from .state import NullSpaceState
from .step import Step, constrained_step

Scalar = Float[Array, ""]


class Outcome(eqx.Module):
    """The result of one step of training; names as in `NullSpaceState`."""

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
    rates: Rates
    solver: lx.AbstractLinearSolver
    redrawn: bool = eqx.field(static=True)

    def start(self, dual: Vector | None) -> Vector | None:
        """The dual to start a solve from; None if rows are not those of last time."""
        return None if self.redrawn else dual

    def held(self, state: NullSpaceState) -> Flags | None:
        """The rows held in the last step; where rows are new, the equations."""
        return self.problem.equation if self.redrawn else state.active

    def after(
        self,
        proposal: Vector,
        state: NullSpaceState,
        *,
        weights: Vector | None,
        held: Flags | None = None,
    ) -> Step:
        """The step nearest to a proposed one. Rows of `held` count as equations."""
        always, active = self.problem.equation, self.held(state)
        if held is not None:
            always = active = jax.tree.map(jnp.logical_or, always, held)
        return constrained_step(
            *(self.problem, self.params, proposal),
            weights=weights,
            rates=self.rates,
            solver=self.solver,
            guess=self.start(state.correction),
            active=active,
            rules=Rules(always),
        )

    def before(self, gradient: Vector, state: NullSpaceState) -> Step:
        """The direction of steepest descent along the rows that are held."""
        problem = self.problem
        zeros = jax.tree.map(jnp.zeros_like, (problem.gap, problem.residual))
        still = eqx.tree_at(
            lambda p: (p.gap, p.residual), problem, zeros, is_leaf=lambda x: x is None
        )
        return constrained_step(
            *(still, self.params, tree.neg(gradient)),
            weights=None,
            rates=self.rates,
            solver=self.solver,
            guess=self.start(state.multipliers),
            active=self.held(state),
            rules=Rules(problem.equation, allowed=self.held(state)),
        )


def in_metric(
    projection: Projection,
    metric: AbstractMetric,
    update: Update,
    gradient: Any,
    state: NullSpaceState,
) -> Outcome:
    """The optimizer's step, projected in its metric: one solve.

    Momentum is projected together with the step. Otherwise it carries the normal parts
    of old gradients to points where they are not normal any more. Under constraints of
    negative curvature, an optimum can then be unstable.
    """
    proposal, inner_state = update(gradient, state.inner_state)
    wide, params = widen(proposal), projection.params
    if projection.problem.jacobian is None:
        step = projection.after(wide, state, weights=None)
        multipliers = None
    else:
        weights, size = metric.read(
            OptimizerStep(update, gradient, state.inner_state, inner_state, params)
        )
        wide, weights = metric.adjust(wide, weights)
        step = projection.after(wide, state, weights=weights)
        if size is None:
            size = step_size(wide, widen(gradient), weights)
        else:
            finite = jnp.isfinite(tree.norm(step.update))
            normal = tree.where(finite, step.normal, tree.zeros_like(params))
            inner_state = add_to_momentum(inner_state, params, normal)
        multipliers = tree.scale(
            step.tangential * tree.safe_reciprocal(size), step.dual
        )
    return Outcome(
        proposal,
        step.update,
        inner_state,
        multipliers,
        step.dual,
        step.active,
        step.num_steps,
        step.reason,
    )


def between_projections(
    projection: Projection, update: Update, gradient: Any, state: NullSpaceState
) -> Outcome:
    """The optimizer's step along the constraint, then corrected: two solves."""
    first = projection.before(widen(gradient), state)
    tangent = like(gradient, tree.neg(first.update))
    proposal, inner_state = update(tangent, state.inner_state)
    step = projection.after(widen(proposal), state, weights=None, held=first.active)
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
