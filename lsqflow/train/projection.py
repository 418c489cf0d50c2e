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
from .._outcome import StopReason
from .._tree import Vector
from .active_set import Rules
from .linearisation import Flags, Linearisation, Rates, like, widen
from .metric import Metric, Update, step_size
from .moments import add_to_momentum
from .state import NullSpaceState
from .step import Step, constrained_step

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
    rates: Rates
    solver: lx.AbstractLinearSolver
    redrawn: bool = eqx.field(static=True)

    def start(self, dual: Vector | None) -> Vector | None:
        """Where solves start from; nowhere if rows are others than in the last step."""
        return None if self.redrawn else dual

    def held(self, state: NullSpaceState) -> Flags | None:
        """The rows of the last step; of rows that are new, the equations."""
        return self.problem.equation if self.redrawn else state.active

    def after(
        self,
        proposal: Vector,
        state: NullSpaceState,
        *,
        weights: Vector | None,
        held: Flags | None = None,
    ) -> Step:
        """The step nearest to a proposed one; `held` rows are equations in it."""
        always, active = self.problem.equation, self.held(state)
        if held is not None:
            always = active = jax.tree.map(jnp.logical_or, always, held)
        return _constrained_step(
            *(self.problem, self.params, proposal),
            weights=weights,
            rates=self.rates,
            solver=self.solver,
            guess=self.start(state.correction),
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
            rates=self.rates,
            solver=self.solver,
            guess=self.start(state.multipliers),
            active=self.held(state),
            rules=Rules(problem.equation, allowed=self.held(state)),
        )


def in_metric(
    projection: Projection,
    metric: Metric,
    update: Callable[[Any, Any], tuple[Any, Any]],
    gradient: Any,
    state: NullSpaceState,
) -> Outcome:
    """The optimiser's step, projected in its metric: one solve.

    Momentum is projected with the step. It would else carry the normal parts of old
    gradients to where they are not normal any more; with constraints of negative
    curvature, an optimum can then be unstable.
    """
    proposal, inner_state = update(gradient, state.inner_state)
    wide, params = widen(proposal), projection.params
    if projection.problem.jacobian is None:
        step = projection.after(wide, state, weights=None)
        multipliers = None
    else:
        weights, size = metric.read(
            *(update, gradient, state.inner_state, inner_state, params)
        )
        wide, weights = metric.floored(wide, weights)
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
    """The optimiser's step along the constraint, then corrected: two solves."""
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
