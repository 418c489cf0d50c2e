"""A solve driven from the host: progress, limits, interruption, resumption."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import ArrayLike, PyTree

from ._jax import raises_inside
from ._operator.convert import OperatorLike
from ._outcome import StopReason
from ._problem.inputs import Stated, stated
from ._problem.regularizer import Tikhonov
from ._solution import Solution
from ._solver.auto import AutoSolver
from ._solver.chunks import advance, begin, end, fitted, limit, resume
from ._solver.golub_kahan import with_arrays
from ._solver.loop import AbstractIterativeSolver, State
from ._solver.lsmr import LSMR

try:
    from tqdm.auto import tqdm
except ImportError:  # the bar is the one thing that needs it
    tqdm = None


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a callback of [`lsqflow.iterate`][] sees after each chunk of steps.

    **Attributes:**

    - `num_steps`: the number of steps so far, with those of earlier calls.
    - `residual_norm`, `normal_residual_norm`: ‖r‖ and ‖Aᴴ r − λ² x‖, as the solver
        knows them without computing them. They are those of the whole problem: weights
        and damping count, and regularizers are further rows.
    - `seconds`: the wall-clock time of this call, compilation included.
    - `state`: the state of the solver, which can be saved.
    """

    num_steps: int
    residual_norm: float
    normal_residual_norm: float
    seconds: float
    state: State


class Iteration(eqx.Module):
    """What [`lsqflow.iterate`][] returns.

    **Attributes:**

    - `solution`: the [`lsqflow.Solution`][] reached. If the solve was stopped from
        outside, its `result` is not successful and its `stop_reason` is `interrupted`.
    - `state`: the state of the solver: pass it to `iterate` to go on. A pytree of
        arrays, which `equinox.tree_serialise_leaves`, pickle and Orbax can save.
    - `history`: a dictionary of arrays, `"num_steps"`, `"residual_norm"` and
        `"normal_residual_norm"`, with an entry for each step of this call.
    """

    solution: Solution
    state: State
    history: dict[str, np.ndarray]


def iterate(
    operator: OperatorLike,
    vector: PyTree[ArrayLike],
    solver: lx.AbstractLinearSolver = LSMR(),
    *,
    damp: ArrayLike | None = None,
    weights: PyTree[ArrayLike] | None = None,
    regularizers: Sequence[Tikhonov] = (),
    x0: PyTree[ArrayLike] | None = None,
    state: State | None = None,
    chunk: int = 20,
    callback: Callable[[Progress], bool | None] | None = None,
    progress: bool | None = None,
    time_limit: float | None = None,
    throw: bool = True,
) -> Iteration:
    """Solve as [`lsqflow.lstsq`][] does, in chunks of steps driven from the host.

    ```python
    run = lf.iterate(A, b, time_limit=60.0)
    rest = lf.iterate(A, b, state=run.state)  # go on from there
    ```

    **Use when** a solve takes minutes: to see how far it is, to stop it, and to go on
    later.
    **Avoid when** the solve is part of a larger program: this function cannot be jitted
    or differentiated.
    **Cost:** that of the solve, and one round trip to the host for each chunk.

    **Arguments:**

    - `operator`, `vector`, `damp`, `weights`, `regularizers`, `x0`: the problem, as for
        [`lsqflow.lstsq`][].
    - `solver`: an iterative solver of lsqflow. [`lsqflow.AutoSolver`][] stands for its
        iterative one.
    - `state`: `Iteration.state` of an earlier call for the same problem and kind of
        solver, to go on from there. Tolerances and `max_steps` may differ. If they do
        not, the result is the same to the last bit as without the interruption.
    - `chunk`: how many steps to take between two looks from the host.
    - `callback`: a function of an [`lsqflow.Progress`][], called after each chunk. The
        solve stops if it returns true.
    - `progress`: whether to show a progress bar, which needs tqdm. The default, None,
        shows it if the standard error is a terminal and tqdm is installed.
    - `time_limit`: the wall-clock time after which to stop, in seconds, compilation
        included. Chunks become shorter toward the end. A step is not cut short.
    - `throw`: whether a failure raises. A solve that the callback or the time limit
        stopped does not raise.

    **Returns:** an [`lsqflow.Iteration`][].

    **Raises:** `TypeError` for a solver without steps, or under a transformation of
    JAX. `ValueError` for a `state` whose arrays do not fit the problem and solver.
    Otherwise what [`lsqflow.lstsq`][] raises.
    """
    method = _iterative(solver)
    _require_types(chunk, time_limit, callback)
    problem = stated(
        operator, vector, damp=damp, weights=weights, regularizers=regularizers, x0=x0
    )
    if raises_inside((problem, method, state)):
        raise TypeError(
            "`lsqflow.iterate` looks at the solve from the host, so it cannot run "
            "under `jax.jit`, `grad` or `vmap`. Use `lsqflow.lstsq` there, with "
            "`history=k` in the solver to see how the solve went."
        )
    method: AbstractIterativeSolver = with_arrays(method)
    if state is None:
        state = begin(problem, method)
    else:
        state = resume(problem, method, fitted(state, problem, method))
    state, history, interrupted = _drive(
        problem, method, state, chunk, callback, progress, time_limit
    )
    solution = end(problem, method, state, interrupted)
    if method.history:
        last = _last(history, method.history)
        solution = eqx.tree_at(
            lambda s: s.stats, solution, {**solution.stats, "history": last}
        )
    if throw and not interrupted:
        solution.raise_if_failed()
    return Iteration(solution, state, history)


def _drive(  # noqa: PLR0917
    problem: Stated,
    solver: AbstractIterativeSolver,
    state: State,
    chunk: int,
    callback: Callable[[Progress], bool | None] | None,
    progress: bool | None,  # noqa: FBT001
    time_limit: float | None,
) -> tuple[State, dict[str, np.ndarray], bool]:
    """Chunk after chunk; the last state, all norms, and whether it was interrupted."""
    start = time.monotonic()
    most = int(limit(problem, solver))
    first = done = int(state.num_steps)
    rows, steps = [np.zeros((0, 2))], chunk if time_limit is None else 1
    with _bar(progress, type(solver).__name__, first=first, limit=most) as bar:
        while bool(state.reason == StopReason.running) and done < most:
            begun = time.monotonic()
            until = jnp.asarray(min(done + steps, most), jnp.int32)
            state, ring = advance(problem, solver, state, until, chunk)
            taken = int(state.num_steps) - done
            done += taken
            rows.append(np.asarray(ring)[np.arange(done - taken, done) % chunk])
            now = time.monotonic()
            norms = rows[-1][-1]
            seen = Progress(done, float(norms[0]), float(norms[1]), now - start, state)
            if bar is not None:
                bar.update(taken)
                bar.set_postfix_str(f"‖r‖ {norms[0]:.2e}, ‖Aᴴr‖ {norms[1]:.2e}")
            if callback is not None and callback(seen):
                break
            if time_limit is not None:
                left = time_limit - (now - start)
                if left <= 0:
                    break
                steps = int(np.clip(left * taken / max(now - begun, 1e-9), 1, chunk))
    norms = np.concatenate(rows)
    history = {
        "num_steps": np.arange(first + 1, first + 1 + len(norms)),
        "residual_norm": norms[:, 0],
        "normal_residual_norm": norms[:, 1],
    }
    running = bool(state.reason == StopReason.running)
    return state, history, running and done < most


def _last(history: dict[str, np.ndarray], rows: int) -> dict[str, Any]:
    """The last norms, as a solver with `history=rows` has them."""
    names = ("residual_norm", "normal_residual_norm")
    missing = np.full(max(rows - len(history[names[0]]), 0), np.nan)
    padded = {name: np.concatenate([missing, history[name]]) for name in names}
    return {name: jnp.asarray(values[-rows:]) for name, values in padded.items()}


def _iterative(solver: Any) -> AbstractIterativeSolver:
    solver = solver.iterative if isinstance(solver, AutoSolver) else solver
    if not isinstance(solver, AbstractIterativeSolver):
        raise TypeError(
            "`iterate` needs a solver of lsqflow that goes step by step, such as "
            f"`lsqflow.LSMR()`; got {solver!r}. Others have no steps to look at: use "
            "`lsqflow.lstsq`."
        )
    return solver


def _require_types(chunk: Any, time_limit: Any, callback: Any) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(
            "`callback` must be a function of an `lsqflow.Progress`, or None; got "
            f"{callback!r}."
        )
    if not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"`chunk` must be a positive integer; got {chunk!r}.")
    number = isinstance(time_limit, int | float) and not isinstance(time_limit, bool)
    if time_limit is not None and not (number and time_limit >= 0):
        raise ValueError(
            "`time_limit` must be a non-negative number of seconds; got "
            f"{time_limit!r}."
        )


def _bar(progress: bool | None, name: str, *, first: int, limit: int) -> Any:  # noqa: FBT001
    """A progress bar as a context, or one of None."""
    if progress and tqdm is None:
        raise ImportError("`progress=True` needs tqdm: `pip install tqdm`.")
    shown = sys.stderr.isatty() if progress is None else progress
    if not shown or tqdm is None:
        return contextlib.nullcontext()
    return tqdm(desc=name, initial=first, total=limit, unit="step")
