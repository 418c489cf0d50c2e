"""Least-norm solves that start from where the last one ended."""

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Int

from .. import _tree as tree
from .._derivative.adjoint import ImplicitAdjoint
from .._operator.base import AbstractOperator
from .._outcome import StopReason
from .._problem.problem import Problem
from .._tree import Vector

# The solution, its dual, what is left of the target, steps of the solver, how it ended.
LeastNorm = tuple[Vector, Vector, Vector, Int[Array, ""], StopReason]


def least_norm(
    operator: AbstractOperator,
    target: Vector,
    guess: Vector | None,
    solver: lx.AbstractLinearSolver,
) -> LeastNorm:
    """The least-norm solution, from a guess of its dual.

    The guess is first multiplied by the best factor. So no guess is worse than zero,
    and a change of the step size or of the metric costs nothing.
    """
    if guess is None:
        return _solve(operator, target, solver)
    guess = jax.lax.stop_gradient(guess)
    start = operator.rmv(guess)
    image = operator.mv(start)
    factor = tree.inner(image, target) * tree.safe_reciprocal(tree.inner(image, image))
    remainder = tree.axpy(-factor, image, target)
    # Below rounding there is nothing to solve for.
    eps = float(jnp.finfo(tree.storage_dtype(target)).eps)
    rounding = tree.norm(remainder) <= 10 * eps * tree.norm(target)
    remainder = tree.where(rounding, tree.zeros_like(remainder), remainder)
    x, dual, left, num_steps, reason = _solve(operator, remainder, solver)
    x, dual = tree.axpy(factor, start, x), tree.axpy(factor, guess, dual)
    return x, dual, left, num_steps, reason


def _solve(
    operator: AbstractOperator, target: Vector, solver: lx.AbstractLinearSolver
) -> LeastNorm:
    problem = Problem(operator, target)
    solution, stats = ImplicitAdjoint().solve(problem, solver, throw=False)
    result = solution.primal, solution.dual, solution.residual
    return *result, stats["num_steps"], stats["stop_reason"]
