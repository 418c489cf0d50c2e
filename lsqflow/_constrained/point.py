"""A bounded problem as the descent sees it: points, steps and line searches."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .. import _tree as tree
from .._jax import manual_axes, vary
from .._operator import algebra
from .._operator.structure.selection import Mask
from .._problem.problem import Problem
from .._problem.rewrite import damped_rows
from .._solver.verdict import Evidence, gather
from .._tree import Vector
from .box import Box, Free

Scalar = Float[Array, ""]

# Sufficient decrease of a projected step, as a share of the first-order decrease.
_ARMIJO = 0.1
_MAX_TRIALS = 30


class Point(eqx.Module):
    """A feasible point; `norm` is that of the residual of `[A; λ I]`."""

    x: Vector
    residual: Vector
    gradient: Vector
    norm: Scalar


class Bounded(eqx.Module):
    """A damped least-squares problem over a box, without derivatives."""

    problem: Problem
    box: Box

    def at(self, x: Vector) -> Point:
        """A feasible point with its residual and gradient: two products."""
        problem = self.problem
        residual = problem.residual(x)
        gradient = problem.gradient(x, residual)
        return Point(x, residual, gradient, problem.residual_norm(x, residual))

    def downhill(self, point: Point) -> Vector:
        """Minus the projected gradient: zero in the binding entries."""
        free = self.box.free(point.x, point.gradient)
        return tree.neg(tree.select(free, point.gradient))

    def evidence(self, point: Point, operator_norm: Scalar) -> Evidence:
        """How good a point is, with the projected gradient in the gradient's place."""
        return gather(
            self.problem,
            point.x,
            residual=point.residual,
            gradient=self.downhill(point),
            operator_norm=operator_norm,
        )

    def search(
        self, start: Point, direction: Vector, length: Scalar
    ) -> tuple[Vector, Bool[Array, ""]]:
        """The first `P(x + α d)` that descends enough, for α from `length` downward.

        α does not become shorter than the way to the first bound, so a step that was
        cut puts an unknown at its bound. The change of the objective is computed from
        the step, as `⟨g, s⟩ + ½ ‖A s‖² + …`: that resolves changes far below the
        rounding of the objective itself. If no trial descends, the point stays.

        **Returns:** the new point, and whether the first trial was taken.
        """
        x = start.x
        eps = float(jnp.finfo(tree.storage_dtype(x)).eps)
        first = self.box.first_hit(x, direction) * (1 + 4 * eps)

        def unfinished(carry: Any) -> Array:
            _, _, _, stop, trials = carry
            return ~stop & (trials < _MAX_TRIALS)

        def trial(carry: Any) -> Any:
            _, length, _, _, trials = carry
            new = self.box.project(tree.axpy(length, direction, x))
            step = tree.sub(new, x)
            slope = tree.inner(start.gradient, step)
            curvature = self.problem.curvature(step)
            enough = (slope < 0) & (slope + 0.5 * curvature <= _ARMIJO * slope)
            # The minimizer along the chord says how much shorter to try.
            best = -slope * tree.safe_reciprocal(curvature)
            shorter = length * jnp.clip(best, 0.1, 0.5)
            straight = length <= first
            shorter = jnp.where(straight, shorter, jnp.maximum(first, shorter))
            stop = enough | (straight & (slope >= 0))
            return new, jnp.where(stop, length, shorter), enough, stop, trials + 1

        false = jnp.zeros((), bool)
        carry = (x, length, false, false, jnp.zeros((), jnp.int32))
        carry = vary(carry, manual_axes((self, start, direction, length)))
        new, _, found, _, trials = jax.lax.while_loop(unfinished, trial, carry)
        return tree.where(found, new, x), found & (trials == 1)

    def correction(self, point: Point, free: Free) -> Problem:
        """Least squares for the free part of `x* − x`."""
        return correction_problem(self.problem, free, point.x, point.residual)


def correction_problem(
    problem: Problem, free: Free, x: Vector, residual: Vector
) -> Problem:
    """`min_d ‖A M d − r‖² + λ² ‖M (x + d)‖²`, undamped, for the mask `M`.

    Its least-norm solution is zero in the entries that are not free.
    """
    dtypes = jax.tree.map(lambda v: v.dtype, x)
    masked = algebra.compose(problem.operator, Mask(free, dtypes))
    rows, _ = damped_rows(Problem(masked, residual, problem.damp))
    if problem.damp is None:
        return rows
    below = tree.scale(-problem.damp, tree.select(free, x))
    return Problem(rows.operator, (residual, below))
