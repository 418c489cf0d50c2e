"""Problems restated: each rewrite returns another problem, and the way back."""

import functools as ft
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _tree as tree
from .._jax import on_explicit_mesh, reshard_like
from .._operator import algebra
from .._operator.diagonal import Diagonal, Identity
from .._operator.structure.damped import Damped
from .._operator.structure.stack import VStack
from .._solution import PrimalDual
from .._tree import Vector
from .inputs import conform, require_unknown
from .problem import Problem
from .regularizer import Tikhonov

Scalar = Float[Array, ""]
Back = Callable[[PrimalDual], PrimalDual]


def restated(
    problem: Problem, roots: Vector | None, regularizers: Sequence[Tikhonov]
) -> tuple[Problem, Back]:
    """Carry out weights and regularizers: a problem of plain rows with a damping."""
    if on_explicit_mesh((problem.operator, problem.vector)):
        guess = tree.zeros(problem.operator.in_structure())
        vector = reshard_like(problem.vector, lambda: problem.operator.mv(guess))
        problem = Problem(problem.operator, vector, problem.damp)
    ways_back: list[Back] = []
    if roots is not None:
        problem, back = weighted(problem, roots)
        ways_back.append(back)
    if regularizers:
        problem, back = regularized(problem, regularizers)
        ways_back.append(back)
    return problem, lambda solution: ft.reduce(
        lambda s, back: back(s), reversed(ways_back), solution
    )


def weighted(problem: Problem, roots: Vector) -> tuple[Problem, Back]:
    """Minimize `‖W½ (A x − b)‖² + λ² ‖x‖²`, given the square roots of the weights."""
    scaling = Diagonal(roots)
    operator = algebra.compose(scaling, problem.operator)

    def back(solution: PrimalDual) -> PrimalDual:
        residual = jax.tree.map(jnp.divide, solution.residual, roots)
        dual = None if solution.dual is None else scaling.mv(solution.dual)
        return PrimalDual(solution.primal, dual, residual)

    return Problem(operator, scaling.mv(problem.vector), problem.damp), back


def regularized(
    problem: Problem, regularizers: Sequence[Tikhonov]
) -> tuple[Problem, Back]:
    """Add regularizers. `s² ‖x‖²` is damping; the others are rows below the data.

    The rows are `[A; s₁ L₁; …]`, for the vector `(b, s₁ L₁ μ₁, …)`.
    """
    source = problem.operator.in_structure()
    strengths = [] if problem.damp is None else [problem.damp]
    rows, targets = [problem.operator], [problem.vector]
    for i, term in enumerate(regularizers):
        name = f"regularizers[{i}]"
        L = Identity(source) if term.operator is None else term.operator
        require_unknown(L, source, name)
        if isinstance(L, Identity) and term.prior is None:
            strengths.append(term.strength.astype(tree.scalar_dtype(problem.vector)))
            continue
        L = algebra.scale(term.strength, L)
        rows.append(L)
        if term.prior is None:
            targets.append(tree.zeros(L.out_structure()))
        else:
            prior = conform(term.prior, source, f"{name}.prior", "input")
            if on_explicit_mesh((problem.operator, problem.vector)):
                like = lambda: problem.operator.rmv(problem.vector)
                prior = reshard_like(prior, like)
            targets.append(L.mv(prior))
    damp = _root_of_squares(strengths)
    if len(rows) == 1:
        return Problem(problem.operator, problem.vector, damp), lambda s: s

    def back(solution: PrimalDual) -> PrimalDual:
        dual = None if solution.dual is None else solution.dual[0]
        return PrimalDual(solution.primal, dual, solution.residual[0])

    return Problem(VStack(tuple(rows)), tuple(targets), damp), back


def _root_of_squares(strengths: Sequence[Scalar]) -> Scalar | None:
    """Dampings add up in their squares. A single one keeps its derivatives at zero."""
    if len(strengths) < 2:
        return strengths[0] if strengths else None
    return tree.safe_sqrt(sum((s * s for s in strengths[1:]), strengths[0] ** 2))


def damped_rows(problem: Problem) -> tuple[Problem, Back]:
    """Damping as rows, `[A; λ I]` and `(b, 0)`, for methods that have no damping."""
    damp = problem.damp
    if damp is None:
        return problem, lambda solution: solution

    def back(solution: PrimalDual) -> PrimalDual:
        # The dual of the rows is not that of the damped problem, which is r / λ².
        residual, _ = solution.residual
        scaled = tree.scale(tree.safe_reciprocal(damp * damp), residual)
        dual = tree.where(damp == 0, solution.dual[0], scaled)
        return PrimalDual(solution.primal, dual, residual)

    zeros = tree.zeros(problem.operator.in_structure())
    return Problem(Damped(problem.operator, damp), (problem.vector, zeros)), back


def warm_start(problem: Problem, x0: Vector) -> tuple[Problem, Back]:
    """Solve for the correction to `x0`, which derivatives treat as a constant.

    Damping acts on the sum and not on the correction, so it becomes rows first.
    """
    x0 = jax.lax.stop_gradient(x0)
    rows, undo = damped_rows(problem)

    def back(correction: PrimalDual) -> PrimalDual:
        x = tree.add(x0, correction.primal)
        return undo(PrimalDual(x, correction.dual, correction.residual))

    return Problem(rows.operator, rows.residual(x0)), back
