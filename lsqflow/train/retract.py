"""`retract`: move parameters onto the constraint set, to a tolerance."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, Int, PyTree

from .. import _tree as tree
from .._outcome import StopReason, is_failure, raised, result_of
from .._solver.lsmr import LSMR
from .._tree import Vector
from ..constraint.base import AbstractConstraint, excess, largest_violation
from ..constraint.inputs import described, require_parameters, require_residual
from .active_set import Rules
from .compiled import Compiled, numbers_as_arrays
from .inputs import explained, require_constraint, require_solver
from .linearisation import Linearisation, Rates, like, widen
from .step import constrained_step

Scalar = Float[Array, ""]


class Retraction(eqx.Module):
    """What [`lsqflow.retract`][] returns.

    **Attributes:**

    - `params`: the parameters, with the structure and dtypes of those given.
    - `violation`: the largest |c| at `params`.
    - `num_steps`: how many Gauss–Newton steps were tried.
    - `stop_reason`: why the search ended, a [`lsqflow.StopReason`][].
    """

    params: PyTree[Array]
    violation: Scalar
    num_steps: Int[Array, ""]
    stop_reason: StopReason

    @property
    def result(self) -> lx.RESULTS:
        """Successful if and only if the constraint holds to the tolerance."""
        return result_of(self.stop_reason)


def retract(
    constraint: AbstractConstraint,
    params: PyTree[Array],
    *args: Any,
    solver: lx.AbstractLinearSolver | None = None,
    tolerance: float | None = None,
    max_steps: int = 50,
    throw: bool = True,
) -> Retraction:
    r"""Move parameters onto the constraint set, by a short way.

    Use it for the last mile after training, for checkpoints, and for a start where the
    constraint holds. The method is Gauss–Newton, $\theta \leftarrow \theta - t J^+
    c(\theta)$. Each step is the shortest one that solves the linearised constraint,
    and is halved until the residual falls. Inequalities that hold are left alone.

    ```python
    found = lf.retract(lf.Equality(lambda p: p @ p - 1), jnp.array([3.0, 4.0]))
    found.params  # 0.6, 0.8
    ```

    **Arguments:**

    - `constraint`: an [`lsqflow.AbstractConstraint`][].
    - `params`: where to start, a pytree of floating-point arrays.
    - `args`: further arguments of the constraint.
    - `solver`: the solver to use for steps; by default LSMR, with a tolerance near the
        precision of the dtype.
    - `tolerance`: the largest |c| to be accepted; by default 100 times the rounding
        unit of the parameters.
    - `max_steps`: a limit on the number of steps.
    - `throw`: whether to raise at run time if the tolerance is not reached.

    **Returns:** a [`lsqflow.Retraction`][]. The function can be jitted and mapped. It
    cannot be differentiated in reverse mode.

    **Cost:** a step evaluates the constraint twice, linearises it once and solves one
    least-squares problem. It is compiled, also for users who do not.

    **Raises:** an error at run time if `throw` is true and the constraint set was not
    reached: it is empty, or the start is too far from it. `TypeError` or `ValueError`
    for arguments of the wrong kind.
    """
    if isinstance(params, AbstractConstraint):
        raise TypeError(
            "The first two arguments are exchanged: write "
            "`lsqflow.retract(constraint, params)`."
        )
    require_constraint(constraint)
    require_solver(solver)
    require_parameters(params, "`lsqflow.retract`")
    params = numbers_as_arrays(params)
    start = widen(params)
    eps = float(jnp.finfo(tree.storage_dtype(start)).eps)
    if tolerance is None:
        tolerance = 100 * eps
    _require_limits(tolerance, max_steps)
    limits = numbers_as_arrays((tolerance, max_steps))
    solver = LSMR(rtol=eps**0.75) if solver is None else solver
    args = numbers_as_arrays(args)
    how = "pass them last: `lsqflow.retract(constraint, params, batch)`"
    with explained(start, how):
        result = _retract(constraint, start, args, solver, limits)
    found = raised(result.params, result.stop_reason) if throw else result.params
    return eqx.tree_at(lambda r: r.params, result, like(params, found))


def _require_limits(tolerance: Any, max_steps: Any) -> None:
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not (number or eqx.is_array(tolerance)) or (number and not tolerance >= 0):
        raise ValueError(
            "`tolerance` must be a number that is not negative, the largest |c| to be "
            f"accepted; got {described(tolerance)}."
        )
    number = isinstance(max_steps, int) and not isinstance(max_steps, bool)
    if not (number or eqx.is_array(max_steps)) or (number and max_steps < 0):
        raise ValueError(
            "`max_steps` must be an integer that is not negative; got "
            f"{described(max_steps)}."
        )


@Compiled
def _retract(
    constraint: AbstractConstraint,
    start: Vector,
    args: tuple[Any, ...],
    solver: lx.AbstractLinearSolver,
    limits: tuple[Array, Array],
) -> Retraction:
    dtype = tree.scalar_dtype(start)
    one = jnp.ones((), dtype)
    tolerance, max_steps = limits[0].astype(dtype), limits[1]

    def residual(params: Vector) -> Vector:
        """All that should be zero."""
        value = constraint.residual(params, *args)
        require_residual(value, constraint)
        value = jax.tree.map(jnp.asarray, value)
        return excess(value, constraint.inequality())

    def largest(params: Vector) -> Scalar:
        return largest_violation(residual(params)).astype(dtype)

    def unfinished(carry: Any) -> Array:
        _, violation, _, length, count, reason = carry
        going = (violation > tolerance) & (count < max_steps) & (length > 1e-6)
        return going & ~is_failure(reason)

    def step(carry: Any) -> Any:
        params, _, size, length, count, _ = carry
        problem = Linearisation.of(constraint, params, args)
        solved = constrained_step(
            *(problem, params, tree.zeros_like(params)),
            weights=None,
            rates=Rates(one),
            solver=solver,
            guess=None,
            active=problem.equation,
            rules=Rules(problem.equation),
        )
        trial = tree.axpy(length, solved.update, params)
        new = tree.norm(residual(trial)).astype(dtype)
        better = new < size
        params = tree.where(better, trial, params)
        length = jnp.where(better, jnp.minimum(2 * length, one), length / 2)
        size = jnp.where(better, new, size)
        # A linearised system without solution may still have good least-squares steps.
        broken = solved.reason == StopReason.nonfinite
        reason = StopReason.where(broken, solved.reason, StopReason.running)
        return params, largest(params), size, length, count + 1, reason

    size = tree.norm(residual(start)).astype(dtype)
    zero = jnp.zeros((), jnp.int32)
    carry = (start, largest(start), size, one, zero, StopReason.running)
    params, violation, _, length, count, reason = jax.lax.while_loop(
        unfinished, step, carry
    )
    stuck = StopReason.where(
        length > 1e-6, StopReason.max_steps_reached, StopReason.infeasible
    )
    reason = StopReason.where(is_failure(reason), reason, stuck)
    reason = StopReason.where(violation <= tolerance, StopReason.consistent, reason)
    finite = jnp.isfinite(violation)
    reason = StopReason.where(finite, reason, StopReason.nonfinite)
    return Retraction(params, violation, count, reason)
