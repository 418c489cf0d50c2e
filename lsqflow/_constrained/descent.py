"""Projected descent: finds which unknowns end at bounds, and solves for the others."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int

from .. import _tree as tree
from .._jax import manual_axes, vary
from .._outcome import StopReason
from .._solver.golub_kahan import AbstractGolubKahanSolver
from .._solver.lineax import as_solver
from .._solver.verdict import Tolerances, verdict
from .._tree import Vector
from .box import Free, equal
from .point import Bounded, Point

Scalar = Float[Array, ""]

_MAX_OUTER = 1000
_MAX_GRADIENT_STEPS = 10
_MAX_FACES = 20
# An inner solve reduces the gradient by _FORCING while the free unknowns change, and by
# _TIGHTEN more each time that they do not.
_FORCING = 0.1
_TIGHTEN = 0.01
# Steps that neither move a bound nor reduce a gradient of _STALL roundings.
_MAX_STALLS = 3
_STALL = 100.0
# How far, in tolerances, a point may be from what it claims.
_SLACK = 10.0


class State(eqx.Module):
    """What the descent carries from step to step."""

    point: Point
    operator_norm: Scalar
    forcing: Scalar
    num_steps: Int[Array, ""]
    outer_steps: Int[Array, ""]
    stalls: Int[Array, ""]
    reason: StopReason


class _Face(eqx.Module):
    """The state of the second half of a step."""

    point: Point
    free: Free
    operator_norm: Scalar
    num_steps: Int[Array, ""]
    faces: Int[Array, ""]
    settled: Bool[Array, ""]
    full: Bool[Array, ""]


class Descent(eqx.Module):
    """The projected descent of Moré and Toraldo (1991), with least squares on faces.

    A face is the set of points with the same unknowns at bounds.
    """

    problem: Bounded
    solver: lx.AbstractLinearSolver
    tolerances: Tolerances

    def run(self, x0: Vector) -> State:
        """Start at the feasible point nearest to `x0`; end at a solution or a limit."""
        bounded, problem = self.problem, self.problem.problem
        start = bounded.at(bounded.box.project(x0))
        image = problem.operator.adjoint_mv(problem.vector)
        norm = tree.norm(image) * tree.safe_reciprocal(tree.norm(problem.vector))
        reason = self._reason(start, norm)
        reason = StopReason.where(_finite(start), reason, StopReason.nonfinite_input)
        zero = jnp.zeros((), jnp.int32)
        forcing = jnp.full_like(start.norm, _FORCING)
        state = State(start, norm, forcing, zero, zero, zero, reason)
        state = vary(state, manual_axes((self, x0)))

        # JAX hashes functions; bound methods would hash the arrays of their module.
        def unfinished(state: State) -> Array:
            return self._unfinished(state)

        def step(state: State) -> State:
            return self._step(state)

        return self._verdict(jax.lax.while_loop(unfinished, step, state))

    def _unfinished(self, state: State) -> Array:
        more = (state.outer_steps < _MAX_OUTER) & (state.stalls < _MAX_STALLS)
        return (state.reason == StopReason.running) & more & self._left(state.num_steps)

    def _left(self, num_steps: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether the solver has steps left."""
        limit = None
        if isinstance(self.solver, AbstractGolubKahanSolver):
            limit = self.solver.max_steps
        return jnp.ones((), bool) if limit is None else num_steps < limit

    def _step(self, state: State) -> State:
        problem = self.problem
        point, norm = self._gradient_steps(state.point, state.operator_norm)
        face = self._faces(point, norm, state)
        point, norm = face.point, face.operator_norm
        left = problem.box.free(point.x, point.gradient)
        settled = face.settled & equal(face.free, left)
        before, now = (
            tree.norm(problem.downhill(p)) for p in (state.point, face.point)
        )
        noise = norm * problem.problem.rounding(point.x, norm)
        stalled = settled & (now > 0.5 * before) & (now <= _STALL * noise)
        return State(
            point=point,
            operator_norm=norm,
            forcing=jnp.where(settled & face.full, _TIGHTEN * state.forcing, _FORCING),
            num_steps=face.num_steps,
            outer_steps=state.outer_steps + 1,
            stalls=jnp.where(stalled, state.stalls + 1, 0),
            reason=self._reason(point, norm),
        )

    def _gradient_steps(self, start: Point, norm: Scalar) -> tuple[Point, Scalar]:
        """Projected gradient steps, until they no longer change what is at bounds."""
        problem, box = self.problem, self.problem.box

        def unfinished(carry: Any) -> Array:
            _, _, settled, steps = carry
            return ~settled & (steps < _MAX_GRADIENT_STEPS)

        def step(carry: Any) -> Any:
            point, norm, _, steps = carry
            downhill = problem.downhill(point)
            squared = tree.inner(downhill, downhill)
            curvature = problem.problem.curvature(downhill)
            length = squared * tree.safe_reciprocal(curvature)
            new = problem.at(problem.search(point, downhill, length)[0])
            settled = equal(box.inside(point.x), box.inside(new.x))
            seen = tree.safe_sqrt(curvature * tree.safe_reciprocal(squared))
            return new, jnp.maximum(norm, seen), settled, steps + 1

        carry = (start, norm, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
        carry = vary(carry, manual_axes((self, start)))
        point, norm, _, _ = jax.lax.while_loop(unfinished, step, carry)
        return point, norm

    def _faces(self, start: Point, norm: Scalar, state: State) -> _Face:
        """Least squares in the free unknowns, until no new bound is met on the way."""
        problem, box = self.problem, self.problem.box

        def unfinished(face: _Face) -> Array:
            more = (face.faces < _MAX_FACES) & self._left(face.num_steps)
            return ~face.settled & more

        def step(face: _Face) -> _Face:
            point = face.point
            goal = state.forcing * tree.norm(tree.select(face.free, point.gradient))
            rtol = goal * tree.safe_reciprocal(face.operator_norm * point.norm)
            rtol = jnp.maximum(rtol, 0.3 * self.tolerances.rtol)
            solver = as_solver(_at(self.solver, rtol, face.num_steps))
            solution, stats = solver.run(problem.correction(point, face.free))
            direction = tree.select(face.free, solution.primal)
            x, full = problem.search(point, direction, jnp.ones_like(point.norm))
            inside = box.inside(x)
            return _Face(
                point=problem.at(x),
                free=inside,
                operator_norm=jnp.maximum(face.operator_norm, stats["operator_norm"]),
                num_steps=face.num_steps + stats["num_steps"],
                faces=face.faces + 1,
                settled=equal(inside, face.free),
                full=full,
            )

        face = _Face(
            point=start,
            free=box.free(start.x, start.gradient),
            operator_norm=norm,
            num_steps=state.num_steps,
            faces=jnp.zeros((), jnp.int32),
            settled=jnp.zeros((), bool),
            full=jnp.zeros((), bool),
        )
        face = vary(face, manual_axes((self, start, state)))
        return jax.lax.while_loop(unfinished, step, face)

    def _reason(self, point: Point, norm: Scalar) -> StopReason:
        evidence = self.problem.evidence(point, norm)
        return self.tolerances.reason(evidence, computed=True)

    def _verdict(self, state: State) -> State:
        """Judge every claim of success again, by the last point."""
        now = self.problem.evidence(state.point, state.operator_norm)
        stalled = state.stalls >= _MAX_STALLS
        limited = StopReason.where(
            stalled, StopReason.inaccurate, StopReason.max_steps_reached
        )
        near = self.tolerances.reason(now, computed=True, slack=_SLACK)
        # Rounding alone keeps a stalled descent from its tolerance.
        late = StopReason.where(
            stalled & (near != StopReason.running), StopReason.precision, near
        )
        late = StopReason.where(near == StopReason.running, limited, late)
        running = state.reason == StopReason.running
        claim = StopReason.where(running, late, state.reason)
        return dataclasses.replace(state, reason=verdict(claim, now, self.tolerances))


def _finite(point: Point) -> Bool[Array, ""]:
    return jnp.isfinite(point.norm) & jnp.isfinite(tree.norm(point.gradient))


def _at(
    solver: lx.AbstractLinearSolver, rtol: Scalar, num_steps: Int[Array, ""]
) -> lx.AbstractLinearSolver:
    """An iterative solver at another tolerance, with the steps that are left."""
    if not isinstance(solver, AbstractGolubKahanSolver):
        return solver
    left = None if solver.max_steps is None else solver.max_steps - num_steps
    replaced: Any = {"rtol": rtol, "atol": 0.0, "max_steps": left}
    return dataclasses.replace(solver, **replaced)
