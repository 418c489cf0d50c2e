"""`retract`: onto the constraint set, to tolerance."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, Int, PyTree

from .. import _tree as tree
from .._derivative.primal_dual import checked
from .._outcome import StopReason, is_failure, result_of
from .._solver.lsmr import LSMR
from .._tree import Vector
from ..constraint.base import AbstractConstraint, excess, largest_violation
from .active_set import Rules
from .linearisation import Linearisation, Rates, like, widen
from .step import constrained_step

Scalar = Float[Array, ""]


class Retraction(eqx.Module):
    """Parameters that satisfy a constraint.

    **Attributes:**

    - `params`: the parameters, with the structure and dtypes of those given.
    - `violation`: the largest |c| at `params`.
    - `num_steps`: Gauss–Newton steps, also those that were cut back.
    - `stop_reason`: a [`lsqflow.StopReason`][].
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
    r"""Move parameters to the constraint set, by a short way.

    Gauss–Newton, $\theta \leftarrow \theta - t J^+ c(\theta)$: each step is the
    shortest that solves the linearised constraint, and is halved until the residual
    falls. For the last mile after training, and for checkpoints. Inequalities that hold
    are left alone.

    **Arguments:**

    - `constraint`: an [`lsqflow.AbstractConstraint`][].
    - `params`: where to start.
    - `args`: further arguments of the constraint.
    - `solver`: who solves; by default LSMR near the precision of the dtype.
    - `tolerance`: the largest |c| to be accepted; by default 100 times the rounding
        unit of the parameters.
    - `max_steps`: a limit on the number of steps.
    - `throw`: whether to raise at run time if the tolerance is not reached.

    **Returns:** a [`lsqflow.Retraction`][]. It can be jitted and mapped, not
    differentiated in reverse mode.

    **Raises:** an error at run time if `throw` is true and the constraint set was not
    reached: it is empty, or the start is too far from it.
    """
    if not isinstance(constraint, AbstractConstraint):
        raise TypeError(f"`constraint` must be one of lsqflow; got {constraint!r}.")
    start = widen(params)
    eps = float(jnp.finfo(tree.storage_dtype(start)).eps)
    tolerance = 100 * eps if tolerance is None else tolerance
    solver = LSMR(rtol=eps**0.75) if solver is None else solver
    result = _retract(constraint, start, args, solver, tolerance, max_steps, throw)
    return eqx.tree_at(lambda r: r.params, result, like(params, result.params))


@eqx.filter_jit
def _retract(  # noqa: PLR0917
    constraint: AbstractConstraint,
    start: Vector,
    args: tuple[Any, ...],
    solver: lx.AbstractLinearSolver,
    tolerance: float | Scalar,
    max_steps: int,
    throw: bool,  # noqa: FBT001
) -> Retraction:
    dtype = tree.scalar_dtype(start)
    one = jnp.ones((), dtype)

    def residual(params: Vector) -> Vector:
        """All that should be zero."""
        return excess(constraint.residual(params, *args), constraint.inequality())

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
    params = checked(params, reason, throw)
    return Retraction(params, violation, count, reason)
