"""A solve in pieces, each of them one compiled program: for a loop on the host."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._jax import manual_axes, reshard_as, vary
from .._outcome import StopReason
from .._problem.inputs import Stated
from .._problem.problem import Problem
from .._problem.rewrite import Back, restated, warm_start
from .._solution import Solution, concluded
from .loop import (
    AbstractIterativeSolver,
    History,
    State,
    ready,
    unfinished_at,
    while_loop,
)


def _plain(problem: Stated) -> tuple[Problem, Back]:
    """The problem that is iterated on, and the way back to the user's variables."""
    rows, back = restated(problem.problem, problem.roots, problem.regularizers)
    if problem.x0 is None:
        return ready(rows), back
    correction, undo = warm_start(rows, problem.x0)
    return ready(correction), lambda solution: back(undo(solution))


@eqx.filter_jit
def begin(problem: Stated, solver: AbstractIterativeSolver) -> State:
    """The state before the first step."""
    return solver.start(_plain(problem)[0])


@eqx.filter_jit
def resume(problem: Stated, solver: AbstractIterativeSolver, state: State) -> State:
    """The state of an earlier solve, judged by the tolerances of this one."""
    return solver.resume(_plain(problem)[0], state)


@eqx.filter_jit
def advance(
    problem: Stated,
    solver: AbstractIterativeSolver,
    state: State,
    until: Int[Array, ""],
    chunk: int,
) -> tuple[State, Array]:
    """Step until `until` steps are done. Returns the norms after each step as well."""
    rows, _ = _plain(problem)

    def step(carry: Any) -> Any:
        state = solver.step(rows, carry[0])
        return state, carry[1].record(state)

    carry = vary((state, History.empty(chunk, state)), manual_axes(rows))
    state, recorded = while_loop(
        lambda carry: unfinished_at(carry[0], until), step, carry, until
    )
    return state, recorded.ring


@eqx.filter_jit
def end(
    problem: Stated,
    solver: AbstractIterativeSolver,
    state: State,
    interrupted: bool,  # noqa: FBT001
) -> Solution:
    """The solution that a state holds."""
    rows, back = _plain(problem)
    if interrupted:
        state = eqx.tree_at(lambda s: s.reason, state, StopReason.interrupted)
    reached, stats = solver.finish(rows, state)
    solution = back(reached)
    plain, _ = restated(problem.problem, problem.roots, problem.regularizers)
    objective = plain.objective(solution.primal, plain.residual(solution.primal))
    return concluded(solution, objective, reached, stats)


@eqx.filter_jit
def limit(problem: Stated, solver: AbstractIterativeSolver) -> Any:
    """The greatest number of steps."""
    return solver.limit(_plain(problem)[0])


def fitted(state: Any, problem: Stated, solver: AbstractIterativeSolver) -> Any:
    """A state of this problem and solver, on the devices of the problem.

    **Raises:** `ValueError` for the state of another problem or solver.
    """
    want = eqx.filter_eval_shape(begin, problem, solver)
    shapes = [
        [(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(s)]
        for s in (state, want)
    ]
    if jax.tree.structure(state) != jax.tree.structure(want) or shapes[0] != shapes[1]:
        raise ValueError(
            "`state` belongs to another problem or another solver: its arrays have "
            "other shapes, dtypes or structures than those of this one. Pass the "
            "operator, vector, regularizers and kind of solver that it was made with."
        )
    placed = lambda x, s: reshard_as(jnp.asarray(x), s) if eqx.is_array_like(x) else x
    return jax.tree.map(placed, state, want)
