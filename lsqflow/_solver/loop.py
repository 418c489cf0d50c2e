"""The one loop: `start`, `step`, `finish`, and the three ways to go round."""

import abc
import math
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Bool, Float, Int

from .. import _tree as tree
from .._jax import manual_axes, vary
from .._outcome import StopReason
from .._problem.problem import Problem
from .._solution import PrimalDual
from .base import AbstractSolver, Stats

Scalar = Float[Array, ""]
Steps = int | Int[Array, ""]


@runtime_checkable
class State(Protocol):
    """What an iterative solver carries from step to step: a pytree of arrays."""

    @property
    def num_steps(self) -> Int[Array, ""]:
        """How many steps have been taken."""
        ...

    @property
    def reason(self) -> StopReason:
        """`running`, or why no further step is needed."""
        ...

    @property
    def norms(self) -> tuple[Scalar, Scalar]:
        """‖r‖ and ‖Aᴴ r − λ² x‖, as far as the method knows them for free."""
        ...


_State = TypeVar("_State", bound=State)
Loop = Callable[[Callable[[Any], Any], Callable[[Any], Any], Any, Steps], Any]


class AbstractIterativeSolver(AbstractSolver, Generic[_State]):
    """A solver that goes step by step: `start`, `step`, `finish`.

    Subclass it with these three, and with the fields `max_steps` and `history`. The
    three run in a `while_loop`, in a loop that is differentiated
    ([`lsqflow.UnrolledAdjoint`][]), and in chunks driven from the host
    ([`lsqflow.iterate`][]). So `step` may neither branch nor call the host.

    A state is a pytree of arrays with `num_steps`, `reason` (an
    [`lsqflow.StopReason`][], `running` while there is more to do) and `norms`: ‖r‖ and
    ‖Aᴴ r − λ² x‖, as far as the method knows them without computing them.
    """

    max_steps: AbstractVar[Steps | None]
    history: AbstractVar[int]

    @abc.abstractmethod
    def start(self, problem: Problem) -> _State:
        """The state before the first step."""

    @abc.abstractmethod
    def step(self, problem: Problem, state: _State) -> _State:
        """One step."""

    @abc.abstractmethod
    def finish(self, problem: Problem, state: _State) -> tuple[PrimalDual, Stats]:
        """The solution that a state holds, and its statistics, as `run` returns them.

        The norms and the `"stop_reason"` are computed from the solution itself.
        """

    def resume(self, problem: Problem, state: _State) -> _State:
        """A state that another solve ended in, judged by the tolerances of this one."""
        del problem
        return state

    def limit(self, problem: Problem) -> Steps:
        """The greatest number of steps."""
        if self.max_steps is None:
            return _default_steps(problem)
        if isinstance(self.max_steps, int):
            return self.max_steps
        return self.max_steps.astype(jnp.int32)

    def run(
        self, problem: Problem, *, loop: Loop | None = None
    ) -> tuple[PrimalDual, Stats]:
        problem = ready(problem)
        limit = self.limit(problem)
        loop = while_loop if loop is None else loop
        first = self.start(problem)
        recorded = (first, History.empty(self.history, first))
        recorded = vary(recorded, manual_axes(problem))

        def unfinished(carry: Any) -> Bool[Array, ""]:
            return unfinished_at(carry[0], limit)

        def step(carry: Any) -> Any:
            state = self.step(problem, carry[0])
            return state, carry[1].record(state)

        state, history = loop(unfinished, step, recorded, limit)
        solution, stats = self.finish(problem, state)
        return solution, {**stats, **history.stats(state.num_steps)}


def ready(problem: Problem) -> Problem:
    """The problem with its operator linearized and its arrays fit to enter a loop."""
    operator, vector = vary((problem.operator, problem.vector), manual_axes(problem))
    return Problem(operator, vector, problem.damp).linearise()


def unfinished_at(state: State, limit: Steps) -> Bool[Array, ""]:
    """Whether another step is to be taken."""
    return (state.reason == StopReason.running) & (state.num_steps < limit)


def stopped(state: State) -> StopReason:
    """Why a solve ended: its own reason, or that it had no steps left."""
    return StopReason.where(
        state.reason == StopReason.running,
        StopReason.max_steps_reached,
        state.reason,
    )


def _default_steps(problem: Problem) -> int:
    """Ten times the dimension that bounds the number of steps in exact arithmetic."""
    steps = 10 * min(problem.operator.in_size(), problem.operator.out_size())
    return min(steps, jnp.iinfo(jnp.int32).max)


def while_loop(
    unfinished: Callable[[Any], Any], step: Callable[[Any], Any], state: Any, _: Steps
) -> Any:
    """The loop of a plain solve: it runs as long as needed, without derivatives."""
    return jax.lax.while_loop(unfinished, step, state)


def checkpointed_loop(
    unfinished: Callable[[Any], Any],
    step: Callable[[Any], Any],
    state: Any,
    limit: Steps,
) -> Any:
    """A loop to differentiate: √limit chunks. The way back computes each one again."""
    if not isinstance(limit, int):
        raise TypeError(
            "`UnrolledAdjoint` needs a solver whose `max_steps` is an integer of "
            "Python: the loop is laid out for that many steps."
        )
    length = math.isqrt(max(limit, 1) - 1) + 1
    dynamic, static = eqx.partition(state, eqx.is_array)

    def one(dynamic: Any, _: None) -> tuple[Any, None]:
        state = eqx.combine(dynamic, static)
        new = eqx.filter(step(state), eqx.is_array)
        return tree.where(unfinished(state), new, dynamic), None

    @jax.checkpoint
    def chunk(dynamic: Any) -> Any:
        return jax.lax.scan(one, dynamic, length=length)[0]

    def chunk_if_needed(dynamic: Any, _: None) -> tuple[Any, None]:
        needed = unfinished(eqx.combine(dynamic, static))
        return jax.lax.cond(needed, chunk, lambda x: x, dynamic), None

    dynamic, _ = jax.lax.scan(chunk_if_needed, dynamic, length=-(-limit // length))
    return eqx.combine(dynamic, static)


class History(eqx.Module):
    """The last norms of a solve: a ring with a fixed number of rows, possibly zero."""

    ring: Float[Array, "rows 2"]

    @classmethod
    def empty(cls, rows: int, state: State) -> "History":
        """A history that holds nothing yet, which is NaN."""
        row = jnp.full_like(jnp.stack(state.norms), jnp.nan)
        return cls(jnp.broadcast_to(row, (rows, 2)))

    def record(self, state: State) -> "History":
        """Write the norms after a step in place of the oldest ones."""
        rows = len(self.ring)
        if not rows:
            return self
        at = (state.num_steps - 1) % rows
        row = jnp.stack(state.norms).astype(self.ring.dtype)
        return History(jax.lax.dynamic_update_index_in_dim(self.ring, row, at, 0))

    def stats(self, num_steps: Int[Array, ""]) -> Stats:
        """The norms in the order of the steps. NaN come first if steps were fewer."""
        rows = len(self.ring)
        if not rows:
            return {}
        ordered = jnp.roll(self.ring, -(num_steps % rows), axis=0)
        return {
            "history": {
                "residual_norm": ordered[:, 0],
                "normal_residual_norm": ordered[:, 1],
            }
        }
