"""One bounded problem as the descent sees it: points, steps and line searches."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .. import _tree as tree
from .._jax import manual_axes, vary
from .._operator.base import AbstractOperator
from .._operator.structure.damped import Damped
from .._solution import StopReason
from .._tree import Vector
from .box import Box, Mask, Masked, select

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

    operator: AbstractOperator
    vector: Vector
    damp: Scalar | None
    box: Box

    def at(self, x: Vector) -> Point:
        """A feasible point with its residual and gradient: two products."""
        residual = tree.sub(self.vector, self.operator.mv(x))
        gradient = tree.neg(self.operator.rmv(residual))
        norm = tree.norm(residual)
        if self.damp is not None:
            gradient = tree.axpy(self.damp * self.damp, x, gradient)
            norm = jnp.hypot(norm, self.damp * tree.norm(x))
        return Point(x, residual, gradient, norm)

    def downhill(self, point: Point) -> Vector:
        """Minus the projected gradient: zero in the binding entries."""
        free = self.box.free(point.x, point.gradient)
        return tree.neg(select(free, point.gradient))

    def curvature(self, step: Vector) -> Scalar:
        """‖A s‖² + λ² ‖s‖²: one product."""
        image = self.operator.mv(step)
        curvature = tree.inner(image, image)
        if self.damp is not None:
            curvature += self.damp * self.damp * tree.inner(step, step)
        return curvature

    def search(
        self, start: Point, direction: Vector, length: Scalar
    ) -> tuple[Vector, Bool[Array, ""]]:
        """The first `P(x + α d)`, α = length and shorter, that descends enough.

        Not shorter than to the first bound, so that a step that was cut fixes an
        unknown. The change of the objective is computed from the step,
        `⟨g, s⟩ + ½ ‖A s‖² + …`, which resolves changes far below the rounding of the
        objective itself. If no trial descends, the point stays. Second, whether the
        length was taken as it came.
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
            curvature = self.curvature(step)
            enough = (slope < 0) & (slope + 0.5 * curvature <= _ARMIJO * slope)
            # The minimiser along the chord says how much shorter to try.
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

    def correction(self, point: Point, free: Mask) -> tuple[AbstractOperator, Vector]:
        """Operator and vector of least squares for the free part of `x* − x`."""
        return correction_problem(
            self.operator, free, point.residual, point.x, self.damp
        )


def correction_problem(
    operator: AbstractOperator,
    free: Mask,
    residual: Vector,
    x: Vector,
    damp: Scalar | None,
) -> tuple[AbstractOperator, Vector]:
    """`min_d ‖A M d − r‖² + λ² ‖M (x + d)‖²` as operator and vector, undamped."""
    masked = Masked(operator, free)
    if damp is None:
        return masked, residual
    return Damped(masked, damp), (residual, tree.scale(-damp, select(free, x)))


class Tolerances(eqx.Module):
    """When a feasible point is a solution; compare `lsqflow._solver.verdict`."""

    rtol: Scalar
    atol: Scalar
    eps: float = eqx.field(static=True)

    def noise(self, problem: Bounded, x: Vector, operator_norm: Scalar) -> Scalar:
        """To what the gradient can be computed: the rounding of the residual."""
        size = operator_norm * tree.norm(x) + tree.norm(problem.vector)
        return self.eps * operator_norm * size

    def reason(
        self,
        problem: Bounded,
        point: Point,
        operator_norm: Scalar,
        *,
        slack: float = 1.0,
    ) -> StopReason:
        """The first rule that holds, with g_F the gradient in entries not binding.

        least squares: ‖g_F‖ ≤ atol + rtol ‖A‖ ‖(r, λ x)‖
        consistent:    ‖(r, λ x)‖ ≤ atol + rtol (‖A‖ ‖x‖ + ‖b‖)
        precision:     ‖g_F‖ ≤ ε ‖A‖ (‖A‖ ‖x‖ + ‖b‖)
        """
        projected = tree.norm(problem.downhill(point))
        noise = self.noise(problem, point.x, operator_norm)
        size = operator_norm * tree.norm(point.x) + tree.norm(problem.vector)
        rules = (
            (projected <= slack * noise, StopReason.precision),
            (
                point.norm <= slack * (self.atol + self.rtol * size),
                StopReason.consistent,
            ),
            (
                projected
                <= slack * (self.atol + self.rtol * operator_norm * point.norm),
                StopReason.least_squares,
            ),
        )
        reason = StopReason.running
        for holds, candidate in rules:
            reason = StopReason.where(holds, candidate, reason)
        return reason
