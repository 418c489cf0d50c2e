"""`null_space`: an optimizer that keeps constraints."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import lineax as lx
import optax

from .. import _tree as tree
from .._jax import is_traced
from .._outcome import StopReason, is_failure
from .._solver.lsmr import LSMR
from ..constraint.base import AbstractConstraint
from ..constraint.inputs import require_parameters
from .compiled import Compiled, numbers_as_arrays
from .inputs import (
    ScalarOrSchedule,
    as_rates,
    explained,
    require_tuple,
    require_types,
)
from .linearisation import Linearisation, like, widen
from .metric import Choice, MetricForm
from .probe import Chosen
from .projection import Projection, between_projections, in_metric
from .state import (
    NullSpaceState,
    distinct,
    first_state,
    like_residual,
    require_update,
)


def null_space(
    optimizer: optax.GradientTransformation,
    constraint: AbstractConstraint,
    *,
    solver: lx.AbstractLinearSolver | None = None,
    rate: ScalarOrSchedule = 1.0,
    warmup: int | Callable[[Any], Any] | None = None,
    metric: Choice = "auto",
    constraint_args: tuple[Any, ...] = (),
) -> optax.GradientTransformationExtraArgs:
    r"""Wrap an optimizer so that it keeps a constraint, $c(\theta) = 0$ or $\le 0$.

    Each update Δ of the optimizer is replaced by the nearest one that obeys the
    linearised constraint,

    $$\Delta^+ = \arg\min_\delta \|\delta - \Delta\|_M \quad\text{s.t.}\quad
      J \delta = -\gamma\, c(\theta),$$

    in the optimizer's own metric $M$. This is a step of sequential quadratic
    programming: training comes to rest where $\nabla f + J^T \mu = 0$, at optima of the
    constrained problem. Single entries with given values (sparsity, fixed parameters)
    are set without iterations.

    ```python
    constraint = lf.Equality(lambda params: params["x"] + params["y"] - 1)
    optimizer = lf.null_space(optax.adam(1e-2), constraint)
    ```

    The result is an ordinary Optax optimizer, and may be chained, partitioned, wrapped
    and jitted as such. What comes after it in a chain is not projected.

    **Arguments:**

    - `optimizer`: any Optax optimizer. It goes inside, not before, since its metric
        decides where constrained training converges.
    - `constraint`: an [`lsqflow.AbstractConstraint`][].
    - `solver`: the solver to use for each step. It must handle any shape and rank. By
        default it is LSMR with a tolerance of 1e-4, started from the dual of the last
        step, so that each step mends the errors of the step before. `max_steps` of the
        solver limits the cost of a step; [`lsqflow.LSQR`][] then leaves the smaller
        residual. A looser tolerance limits the cost of ill-conditioned or contradictory
        constraints.
    - `rate`: γ, the share of the violation that a step removes, more than 0 and at most
        1; or a schedule, from the number of the step to a share.
    - `warmup`: a number of first steps, during which the share of the correction that
        is made rises from 0 to 1; or a schedule of that share. Use it where the
        constraint holds at the start for no good reason: a constant function is
        periodic, and training has to leave it before it may come back.
    - `metric`: $M$. `"auto"` tries the optimizer on a small problem. For the Adam and
        SGD families it finds a diagonal, at the price of one solve a step. For all
        others it takes two projections, as for None: of the gradient before the
        optimizer sees it, and of the update after it, both in the Euclidean metric.
        That is right for any optimizer, and costs two solves a step.
        `lf.train.adam_metric`, `lf.train.sgd_metric`, `lf.train.euclidean` or another
        [`AbstractMetric`][lsqflow.train.AbstractMetric] skip the trial. A function
        `metric(params, inner_state)` returns the diagonal of M, a pytree like the
        parameters. The state says which metric is in use: `state.form`.
    - `constraint_args`: a tuple, further arguments of the constraint for steps that are
        not given any; or arrays of their shapes and dtypes.

    **Returns:** an `optax.GradientTransformationExtraArgs`. Its `update(gradients,
    state, params)` needs the parameters. It takes `constraint_args=`, a tuple of
    further arguments of the constraint for this step. Other keywords go to the
    optimizer. Its state is a [`lsqflow.NullSpaceState`][]. Updates are differentiable
    where the optimizer's are.

    **Cost:** a step evaluates and linearises the constraint once, and takes as many
    products with its Jacobian and the transpose as the solver takes steps. A call of
    `update` outside of `jax.jit` is compiled at the first step, and later steps with
    arrays of the same shapes compile nothing.

    **Raises:** `TypeError` or `ValueError` for arguments of the wrong kind and for a
    constraint that does not fit the parameters. Nothing raises for values. A degenerate
    or contradictory constraint gives the least-squares step. A constraint that is not
    finite leaves the update alone. The `result` of the state tells.

    ??? cite "Reference"
        ```bibtex
        @article{roy2025matrix,
            author={Roy, Hrittik and Hauberg, S{\o}ren and Kr{\"a}mer, Nicholas},
            title={Matrix-Free Least Squares Solvers: Values, Gradients, and What to Do
                With Them},
            journal={arXiv:2510.19634}, year={2025},
        }
        ```
    """
    require_types(optimizer, constraint, solver, metric)
    require_tuple(constraint_args)
    example = numbers_as_arrays(constraint_args)
    inner = optax.with_extra_args_support(optimizer)
    chosen = Chosen(metric, inner)
    method = LSMR(rtol=1e-4) if solver is None else solver
    rates = as_rates(rate, warmup)

    def init(params: Any) -> NullSpaceState:
        require_parameters(params, "`lsqflow.null_space`")
        params = jax.tree.map(jnp.asarray, params)
        state = inner.init(params)
        found = chosen.metric(state, params)
        form = MetricForm.none if found is None else found.form()
        return first_state(constraint, example, params, state, form)

    def step(
        constraint: AbstractConstraint, given: tuple[Any, ...]
    ) -> tuple[Any, NullSpaceState]:
        updates, state, params, args, extra = given
        wide = widen(params)
        now = constraint.at(state.count)
        with explained(params):
            violation = now.violation(wide, *args)
            problem = Linearisation.of(now, wide, args)
        state = like_residual(state, problem.residual)
        now_rates = rates(state.count, violation.dtype)
        project = Projection(problem, wide, now_rates, method, now.redrawn())
        run = lambda gradient, before: inner.update(gradient, before, params, **extra)

        found = chosen.metric(state.inner_state, params)
        if found is None:
            out = between_projections(project, run, updates, state)
        else:
            out = in_metric(project, found, run, updates, state)

        finite = jnp.isfinite(tree.norm(out.update))
        keep = lambda new, old: None if old is None else tree.where(finite, new, old)
        new_state = NullSpaceState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            inner_state=out.inner_state,
            violation=violation.astype(state.violation.dtype),
            multipliers=keep(out.multipliers, state.multipliers),
            correction=keep(out.correction, state.correction),
            active=keep(out.active, state.active),
            num_steps=out.num_steps,
            stop_reason=StopReason.where(
                finite | is_failure(out.stop_reason),
                out.stop_reason,
                StopReason.nonfinite,
            ),
            form=state.form,
        )
        proposal = widen(out.proposal)
        return like(out.proposal, tree.where(finite, out.update, proposal)), new_state

    # Users who do not compile their loop get each step compiled.
    compiled = Compiled(step)

    def update(
        updates: Any,
        state: NullSpaceState,
        params: Any = None,
        *,
        constraint_args: tuple[Any, ...] = constraint_args,
        **extra: Any,
    ) -> tuple[Any, NullSpaceState]:
        require_update(updates, state, params, constraint_args)
        given = (updates, state, params, constraint_args, extra)
        if not any(map(is_traced, jax.tree.leaves(given))):
            given = numbers_as_arrays(given)
        updates, state = compiled(constraint, given)
        return updates, distinct(state)

    # Optax types states as pytrees of arrays.
    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))
