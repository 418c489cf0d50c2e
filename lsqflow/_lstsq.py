"""`lstsq`: solve a least-squares problem, in every way it can be stated."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import lineax as lx
from jaxtyping import ArrayLike, PyTree

from ._constrained.affine import solve_affine
from ._constrained.bounds import solve_bounded
from ._constrained.box import Box, as_box
from ._derivative.adjoint import AbstractAdjoint, ImplicitAdjoint, UnrolledAdjoint
from ._jax import raises_inside
from ._operator.convert import OperatorLike
from ._problem.inputs import Stated, require_unknown, stated
from ._problem.problem import Problem
from ._problem.regularizer import Tikhonov
from ._problem.rewrite import restated, warm_start
from ._solution import PrimalDual, Solution, concluded
from ._solver.auto import AutoSolver
from ._solver.base import Stats
from ._solver.golub_kahan import with_arrays
from ._solver.lineax import require_solver
from ._tree import Vector
from .constraint.affine import Affine


def lstsq(
    operator: OperatorLike,
    vector: PyTree[ArrayLike],
    solver: lx.AbstractLinearSolver = AutoSolver(),
    *,
    damp: ArrayLike | None = None,
    weights: PyTree[ArrayLike] | None = None,
    regularizers: Sequence[Tikhonov] = (),
    bounds: tuple[Any, Any] | None = None,
    subject_to: Affine | None = None,
    x0: PyTree[ArrayLike] | None = None,
    adjoint: AbstractAdjoint = ImplicitAdjoint(),
    throw: bool = True,
) -> Solution:
    r"""Solve $\min_x \|A x - b\|^2 + \lambda^2 \|x\|^2$, differentiably.

    ```python
    A = jnp.vander(jnp.linspace(-1, 1, 20), 4)
    b = jnp.exp(jnp.linspace(-1, 1, 20))
    solution = lf.lstsq(A, b, lf.LSMR(), damp=0.1)
    solution.value, solution.residual, solution.result
    jax.grad(lambda A: jnp.sum(lf.lstsq(A, b).value))(A)
    ```

    Where the minimizer is not unique (λ = 0, and $A$ wide or rank-deficient), the one
    of least norm is returned.

    The result can be differentiated in forward and reverse mode, to any order, with
    respect to the leaves of `operator`, and to `vector`, `damp`, `weights`,
    `regularizers`, `bounds` and `subject_to`. The function works under `jit`, `vmap`
    and `shard_map`.

    **Arguments:**

    - `operator`: $A$: a two-dimensional array, a lineax operator, or an
        [`lsqflow.AbstractOperator`][].
    - `vector`: $b$: a pytree of arrays with the structure of the operator's output.
        For several right-hand sides use `jax.vmap`. Each is then solved to its own
        tolerance.
    - `solver`: the solver to use: [`lsqflow.LSMR`][], [`lsqflow.LSQR`][], or any solver
        of lineax. The default, [`lsqflow.AutoSolver`][], chooses.
    - `damp`: λ, a real scalar, at least 0. `None` is an undamped problem. A zero gives
        the same solution, and can be differentiated.
    - `weights`: $w \ge 0$, factors of the squared residuals,
        $\sum_i w_i |(A x - b)_i|^2$, such as inverse variances. They have the structure
        of `vector`, and each leaf is broadcast to its shape. Weights do not change the
        damping. For correlated noise, pass `L @ A` and `L.mv(b)`.
    - `regularizers`: a list of terms to add, each an [`lsqflow.Tikhonov`][].
    - `bounds`: `(lower, upper)`. Each is a scalar, a pytree like the solution, or
        `None` for no bound: `(0, None)` asks for a non-negative solution. The unknown
        must be real.
    - `subject_to`: linear equations that hold exactly, an [`lsqflow.Affine`][]. Not
        together with `bounds`.
    - `x0`: a guess of the solution, to start from. Where the minimizer is not unique,
        the one nearest to `x0` is returned. Derivatives treat `x0` as a constant.
    - `adjoint`: how to differentiate. [`lsqflow.ImplicitAdjoint`][] is exact for solves
        that converge. [`lsqflow.UnrolledAdjoint`][] differentiates the iterations, for
        solves that are stopped early on purpose.
    - `throw`: whether a failure raises, also in a solve for a derivative. If not, look
        at `result`, or call `raise_if_failed`. Under `jit` and `grad`, `throw=True`
        puts a host callback into the program, and JAX then does not keep the program
        in its persistent compilation cache.

    **Returns:** an [`lsqflow.Solution`][]: the value, the residual, the dual, and how
    the solve went.

    **Cost:** without bounds and equations, one solve. A gradient costs one more,
    whatever it is taken with respect to.

    **Raises:** `TypeError` or `ValueError` if arguments do not fit. If the solve fails
    and `throw` is true, `equinox.EquinoxRuntimeError` outside of transformations, and a
    run-time error of JAX under them. Both name the likely causes.
    """
    _require_types(solver, subject_to, adjoint, throw)
    problem = stated(
        operator, vector, damp=damp, weights=weights, regularizers=regularizers, x0=x0
    )
    source = problem.problem.operator.in_structure()
    if subject_to is not None:
        require_unknown(subject_to.operator, source, "subject_to")
    box = None
    if bounds is not None:
        if subject_to is not None:
            raise ValueError("`bounds` and `subject_to` cannot be combined yet.")
        box = as_box(*_pair(bounds), source)
    constraint = box if subject_to is None else subject_to
    if not isinstance(adjoint, UnrolledAdjoint):
        solver, adjoint = with_arrays((solver, adjoint))
    # Outside of transformations nothing has to be raised from within the program.
    inside = throw and raises_inside((problem, constraint, solver, adjoint))
    solution = _lstsq(problem, constraint, solver, adjoint, throw=inside)
    return solution.raise_if_failed() if throw and not inside else solution


@eqx.filter_jit
def _lstsq(
    stated: Stated,
    constraint: Affine | Box | None,
    solver: lx.AbstractLinearSolver,
    adjoint: AbstractAdjoint,
    *,
    throw: bool,
) -> Solution:
    problem, back = restated(stated.problem, stated.roots, stated.regularizers)
    solution, multipliers, state, stats = _solve(
        problem, solver, constraint, stated.x0, adjoint, throw=throw
    )
    objective = problem.objective(solution.primal, solution.residual)
    return concluded(back(solution), objective, state, stats, multipliers)


def _solve(
    problem: Problem,
    solver: lx.AbstractLinearSolver,
    constraint: Affine | Box | None,
    x0: Vector | None,
    adjoint: AbstractAdjoint,
    *,
    throw: bool,
) -> tuple[PrimalDual, Vector | None, PrimalDual, Stats]:
    """The solution, its multipliers, the state of its derivatives, and statistics."""
    match constraint:
        case Affine():
            solution, multipliers, stats = solve_affine(
                problem, constraint, x0, solver, adjoint, throw=throw
            )
            return solution, multipliers, solution, stats
        case Box():
            bounded, stats = solve_bounded(
                problem, constraint, solver, adjoint, x0=x0, throw=throw
            )
            solution = PrimalDual(bounded.primal, None, bounded.residual)
            return solution, bounded.dual, solution, stats
    back = lambda state: state
    if x0 is not None:
        problem, back = warm_start(problem, x0)
    state, stats = adjoint.solve(problem, solver, throw=throw)
    return back(state), None, state, stats


def _pair(bounds: Any) -> tuple[Any, Any]:
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(
            "`bounds` must be a pair `(lower, upper)`, such as `(0, None)`; got "
            f"{bounds!r}."
        )
    return bounds[0], bounds[1]


def _require_types(solver: Any, subject_to: Any, adjoint: Any, throw: Any) -> None:
    """Raise a `TypeError` for what cannot be used."""
    require_solver(solver)
    if not isinstance(throw, bool):
        raise TypeError(
            f"`throw` must be True or False, known while tracing; got {throw!r}."
        )
    if not isinstance(adjoint, AbstractAdjoint):
        raise TypeError(
            "`adjoint` must be `lsqflow.ImplicitAdjoint()` or "
            f"`lsqflow.UnrolledAdjoint()`; got {adjoint!r}."
        )
    if not isinstance(subject_to, Affine | None):
        raise TypeError(
            "`subject_to` must be an `lsqflow.Affine(C, d)`, for C x = d; got "
            f"{subject_to!r}."
        )
