"""The shortest solution of equations, and the nearest point that satisfies them."""

import dataclasses

import equinox as eqx
import lineax as lx
from jaxtyping import Array, ArrayLike, PyTree

from . import _tree as tree
from ._inverse import accurate_solver
from ._lstsq import lstsq
from ._operator.convert import OperatorLike, as_operator
from ._outcome import StopReason, is_failure, result_of
from ._problem.inputs import conform
from ._problem.problem import Problem
from ._solution import Solution
from ._solver.auto import AutoSolver
from ._solver.verdict import feasible
from .constraint.affine import Affine


def minimum_norm(
    operator: OperatorLike,
    vector: PyTree[ArrayLike],
    solver: lx.AbstractLinearSolver = AutoSolver(),
    *,
    throw: bool = True,
) -> Solution:
    r"""Solve $\min_x \|x\|$ subject to $A x = b$.

    ```python
    lf.minimum_norm(jnp.array([[1.0, 1.0]]), jnp.array([1.0])).value  # 0.5, 0.5
    ```

    **Use when** the equations must hold. [`lsqflow.lstsq`][] returns the same solution
    where they can hold, and a least-squares solution where they cannot. This function
    then fails, with the reason `infeasible`.

    **Arguments:** as for [`lsqflow.lstsq`][].

    **Returns:** an [`lsqflow.Solution`][]. Its `dual` is the Lagrange multiplier $y$,
    with $x = A^H y$.

    **Cost:** one solve, and two products to check the equations.

    **Raises:** an error at run time if no solution exists and `throw` is true.
    """
    operator = as_operator(operator)
    solution = lstsq(operator, vector, solver, throw=throw)
    vector = conform(vector, operator.out_structure(), "vector", "output")
    solution = _judged(solution, Problem(operator, vector))
    return solution.raise_if_failed() if throw else solution


@eqx.filter_jit
def _judged(solution: Solution, problem: Problem) -> Solution:
    reason = solution.stats["stop_reason"]
    # To the tolerance of the solver, which says so, or to half the digits.
    possible = is_failure(reason) | (reason == StopReason.consistent)
    possible |= feasible(problem, solution.value, solution.residual)
    reason = StopReason.where(possible, reason, StopReason.infeasible)
    stats = {**solution.stats, "stop_reason": reason}
    return dataclasses.replace(solution, result=result_of(reason), stats=stats)


def project(
    constraint: Affine,
    point: PyTree[ArrayLike],
    solver: lx.AbstractLinearSolver | None = None,
    *,
    throw: bool = True,
) -> PyTree[Array]:
    """The point nearest to `point` that satisfies a constraint.

    ```python
    line = lf.Affine(jnp.array([[1.0, 1.0]]), jnp.array([1.0]))
    lf.project(line, jnp.array([1.0, 1.0]))  # 0.5, 0.5
    ```

    **Arguments:**

    - `constraint`: an [`lsqflow.Affine`][], $C x = d$.
    - `point`: a pytree of arrays with the structure of $x$.
    - `solver`: the solver to use; by default LSMR with a tolerance near the precision
        of the dtype.
    - `throw`: whether to raise if the constraint cannot be satisfied.

    **Returns:** $x - C^+ (C x - d)$ for the point $x$. It can be differentiated with
    respect to the point and to the leaves of the constraint.

    **Cost:** one solve.

    **Raises:** `TypeError` for constraints that are not affine.
    """
    if not isinstance(constraint, Affine):
        raise TypeError(
            f"`project` knows `lsqflow.Affine` constraints; got {constraint!r}."
        )
    source = constraint.operator.in_structure()
    point = conform(point, source, "point", "input")
    solver = accurate_solver(source) if solver is None else solver
    residual = constraint.residual(point)
    step = minimum_norm(constraint.operator, residual, solver, throw=throw).value
    return tree.sub(point, step)
