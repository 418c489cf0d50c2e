"""Questions that are a least-squares problem in disguise."""

import dataclasses
from typing import Any

import equinox as eqx
import lineax as lx
from jaxtyping import Array, ArrayLike, PyTree

from . import _tree as tree
from ._constrained.affine import feasible
from ._derivative.primal_dual import checked
from ._inverse import accurate_solver
from ._lstsq import lstsq
from ._operator.convert import OperatorLike, as_operator
from ._problem.inputs import conform
from ._solution import PrimalDual, Solution, StopReason, is_failure, result_of
from ._solver.auto import AutoSolver
from .constraint.affine import Affine


def minimum_norm(
    operator: OperatorLike,
    vector: PyTree[ArrayLike],
    solver: lx.AbstractLinearSolver = AutoSolver(),
    *,
    throw: bool = True,
) -> Solution:
    r"""Solve $\min_x \|x\|$ subject to $A x = b$.

    The `dual` of the solution is the multiplier: $x = A^H y$.

    **Arguments:** as for [`lsqflow.lstsq`][], which gives the same for equations that
    can be satisfied, and a least-squares solution for others; here, these are a
    failure.

    **Returns:** a [`lsqflow.Solution`][].

    **Raises:** an error at run time if no solution exists and `throw` is true.
    """
    operator = as_operator(operator)
    solution = lstsq(operator, vector, solver, throw=throw)
    vector = conform(vector, operator.out_structure(), "vector", "output")
    return _require_consistent(solution, operator, vector, throw)


@eqx.filter_jit
def _require_consistent(
    solution: Solution,
    operator: Any,
    vector: PyTree[Array],
    throw: bool,  # noqa: FBT001
) -> Solution:
    gap = tree.norm(solution.residual)
    reason = solution.stats["stop_reason"]
    # To the tolerance of the solver, which says so, or to half the digits.
    possible = reason == StopReason.consistent
    possible |= feasible(gap, operator, solution.value, vector)
    reason = StopReason.where(
        is_failure(reason) | possible, reason, StopReason.infeasible
    )
    stats = {**solution.stats, "stop_reason": reason}
    vectors = PrimalDual(solution.value, solution.dual, solution.residual)
    vectors = checked(vectors, stats, throw)
    return dataclasses.replace(
        solution,
        value=vectors.primal,
        dual=vectors.dual,
        residual=vectors.residual,
        result=result_of(reason),
        stats=stats,
    )


def project(
    constraint: Affine,
    point: PyTree[ArrayLike],
    solver: lx.AbstractLinearSolver | None = None,
    *,
    throw: bool = True,
) -> PyTree[Array]:
    """The point nearest to `point` that satisfies a constraint.

    For [`lsqflow.Affine`][] it is $x - C^+ (C x - d)$, differentiable in the point and
    in the constraint.

    **Arguments:**

    - `constraint`: the constraint.
    - `point`: a vector with the structure that the constraint expects.
    - `solver`: who solves; by default LSMR near the precision of the dtype.
    - `throw`: whether to raise if the constraint cannot be satisfied.

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
