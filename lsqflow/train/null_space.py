"""`null_space`: an optimiser that keeps constraints."""

from collections.abc import Callable
from typing import Any, cast

import jax.numpy as jnp
import lineax as lx
import optax

from .. import _tree as tree
from .._outcome import StopReason, is_failure
from .._solver.lsmr import LSMR
from ..constraint.base import AbstractConstraint
from .inputs import ScalarOrSchedule, as_rates, require_types
from .linearisation import Linearisation, like, widen
from .metric import Choice, Metric
from .projection import Projection, between_projections, in_metric
from .state import NullSpaceState, first_state, require_same


def null_space(
    optimizer: optax.GradientTransformation,
    constraint: AbstractConstraint,
    *,
    solver: lx.AbstractLinearSolver | None = None,
    rate: ScalarOrSchedule = 1.0,
    warmup: int | Callable[[Any], Any] | None = None,
    metric: Choice = "optimizer",
    constraint_args: tuple[Any, ...] = (),
) -> optax.GradientTransformationExtraArgs:
    r"""An optimiser under a constraint $c(\theta) = 0$, or $c(\theta) \le 0$.

    Each update Δ of the optimiser is replaced by the nearest one that obeys the
    linearised constraint,

    $$\Delta^+ = \arg\min_\delta \|\delta - \Delta\|_M \quad\text{s.t.}\quad
      J \delta = -\gamma\, c(\theta),$$

    in the optimiser's own metric $M$: a step of sequential quadratic programming, whose
    fixed points are those of the constrained problem, $\nabla f + J^T \mu = 0$. What
    the constraint pins (sparsity, fixed parameters) is set without iterations.

    ```python
    constraint = lf.Equality(lambda params: params["x"] + params["y"] - 1)
    optimizer = lf.null_space(optax.adam(1e-2), constraint)
    ```

    It is an ordinary Optax optimiser, and may be chained, partitioned, wrapped and
    jitted as such; what comes after it in a chain is not projected.

    **Arguments:**

    - `optimizer`: any Optax optimiser. It has to be inside, not before, since its
        metric decides where a constrained optimiser converges.
    - `constraint`: an [`lsqflow.AbstractConstraint`][].
    - `solver`: who solves; by default LSMR with a tolerance of 1e-4, warm-started by
        the dual of the last step, so that the errors of a step are mended by the next.
        It must handle any shape and rank. Limit the cost of a step with `max_steps`,
        where [`lsqflow.LSQR`][] leaves the smaller residual, and ill-conditioned or
        contradictory constraints with a looser tolerance.
    - `rate`: γ, the share of the violation that a step removes; a number or a schedule
        of the step.
    - `warmup`: a number of first steps during which the constraint is let in, or a
        schedule from 0 to 1: that share of the whole correction is made. Where the
        constraint holds from the start for reasons that are no good (a constant is
        periodic), training has to leave before it may come back.
    - `metric`: `"optimizer"` for that of the optimiser: a diagonal for the Adam and SGD
        families, at the price of one solve a step; for any other optimiser as for None.
        None projects the gradient before the optimiser sees it and the update after,
        both in the Euclidean metric: right for any optimiser, two solves a step. Or a
        function `metric(params, inner_state)` that returns the diagonal of M, a pytree
        like the parameters.
    - `constraint_args`: further arguments of the constraint, or arrays of their shapes
        and dtypes; for steps that are not given any.

    **Returns:** an `optax.GradientTransformationExtraArgs`. Its `update` needs
    `params`, and takes `constraint_args=`, a tuple of further arguments of the
    constraint for this step; other keywords go to the optimiser. Its state is a
    [`lsqflow.NullSpaceState`][]. Updates are differentiable where the optimiser's are.

    Nothing raises at run time. A degenerate or contradictory constraint gives the
    least-squares step and a constraint that is not finite leaves the update alone, both
    with a `result` in the state.

    **Raises:** `TypeError` or `ValueError` while tracing for a constraint that does not
    fit the parameters.

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
    inner = optax.with_extra_args_support(optimizer)
    chosen = Metric(metric, inner)
    method = LSMR(rtol=1e-4) if solver is None else solver
    rates = as_rates(rate, warmup)

    def init(params: Any) -> NullSpaceState:
        state = inner.init(params)
        return first_state(constraint, constraint_args, params, state)

    def update(
        updates: Any,
        state: NullSpaceState,
        params: Any = None,
        *,
        constraint_args: tuple[Any, ...] = constraint_args,
        **extra: Any,
    ) -> tuple[Any, NullSpaceState]:
        if params is None:
            raise ValueError(
                "`lsqflow.null_space` needs the parameters to evaluate its constraint: "
                "call `update(gradients, state, params)`."
            )
        wide = widen(params)
        now = constraint.at(state.count)
        violation = now.violation(wide, *constraint_args)
        problem = Linearisation.of(now, wide, constraint_args)
        require_same(problem.residual, state.multipliers)
        now_rates = rates(state.count, violation.dtype)
        project = Projection(problem, wide, now_rates, method, now.redrawn())
        run = lambda gradient, before: inner.update(gradient, before, params, **extra)

        if chosen.is_diagonal(state.inner_state, params):
            out = in_metric(project, chosen, run, updates, state)
        else:
            out = between_projections(project, run, updates, state)

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
        )
        proposal = widen(out.proposal)
        return like(out.proposal, tree.where(finite, out.update, proposal)), new_state

    # Optax types states as pytrees of arrays.
    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))
