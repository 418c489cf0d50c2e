r"""How a solve is differentiated: the only file with a differentiation rule.

Two linear maps carry it, at a fixed operator $A$ and damping $\lambda$:

- $P_A : b \mapsto (x, y, r)$, solution, dual and residual: one run of a solver;
- $L_A : (c, d, s) \mapsto A^+ c + (A^H A)^+ d + N s$ with $N = I - A^+ A$, or, damped,
  $(A^H A + \lambda^2 I)^{-1} (A^H c + d + \lambda^2 s)$.

Each is the transpose of the other at $A^T$. The tangents of both are made of both, so
derivatives of every order are. In reverse mode only $P$ runs: $P_A$ forward and
$P_{A^T}$ backward, once each. The derivation is in docs/devdocs/calculus.md.
"""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from .._linear_map import AbstractLinearMap
from .._operator.base import AbstractOperator
from .._outcome import checked
from .._problem.problem import Problem
from .._solution import PrimalDual
from .._solver.base import AbstractSolver, Stats
from .._tree import Vector
from . import maybe
from .lazy import Lazy
from .maybe import Maybe
from .motion import damped_motion, undamped_motion

Scalar = Float[Array, ""]


class System(eqx.Module):
    """What P and L have in common: an operator, a damping, and how to solve with them.

    `solver` computes the value, and `derivative_solver` all its derivatives.
    """

    operator: AbstractOperator
    damp: Scalar | None
    solver: AbstractSolver
    derivative_solver: AbstractSolver
    throw: bool = eqx.field(static=True)

    def at(self, operator: AbstractOperator) -> "System":
        """The derivative system for another operator, such as the transposed one."""
        solver = self.derivative_solver
        return System(operator, self.damp, solver, solver, self.throw)

    def undamped(self) -> "System":
        """The derivative system with λ = 0."""
        solver = self.derivative_solver
        return System(self.operator, None, solver, solver, self.throw)

    def run(self, vector: Vector) -> tuple[PrimalDual, Stats]:
        """Solve now; raise if that fails and the solve is to throw."""
        problem = Problem(self.operator, vector, self.damp)
        solution, stats = self.solver.run(problem)
        return checked(solution, stats["stop_reason"], self.throw), stats

    def solve(self, vector: Vector) -> tuple[PrimalDual, Stats]:
        """`P_A b`, differentiable, with the statistics of its run."""
        return _P(self)(vector)

    def primal_dual(self, vector: Vector) -> PrimalDual:
        """`P_A b`, differentiable."""
        return self.solve(vector)[0]

    def inverse(self, c: Maybe, d: Maybe, s: Maybe) -> Maybe:
        """`L_A (c, d, s)`, differentiable; zero if all three are."""
        if c is None and d is None and s is None:
            return None
        return _L(self)((c, d, s))[0]


class _P(AbstractLinearMap):
    system: System

    def apply(self, arg: Vector) -> tuple[PrimalDual, dict[str, Any]]:
        return self.system.run(arg)

    def transpose(self, arg: Any, cotangent: PrimalDual) -> Maybe:
        del arg
        system = self.system
        A = system.operator
        return system.at(A.transpose()).inverse(
            maybe.complete(cotangent.primal, A.in_structure()),
            maybe.complete(cotangent.dual, A.out_structure()),
            maybe.complete(cotangent.residual, A.out_structure()),
        )

    def jvp(
        self, tangent: "_P", arg: Vector, arg_tangent: Maybe, value: PrimalDual
    ) -> PrimalDual:
        system = self.system.at(self.system.operator)
        A, damp = system.operator, system.damp
        x, y, r = value.primal, value.dual, value.residual
        b_dot = maybe.complete(arg_tangent, A.out_structure())
        A_dot, damp_dot = tangent.system.operator, tangent.system.damp

        # ẋ = L(ḃ − Ȧx, Ȧᴴr − 2λλ̇x, [λ = 0] Ȧᴴy),  ṙ = ḃ − Ȧx − Aẋ
        Ax, Ar, Ay = maybe.tangent(
            lambda A: (A.mv(x), A.adjoint_mv(r), A.adjoint_mv(y)), A, A_dot
        )
        shift = maybe.shift(damp, damp_dot)
        c = maybe.sub(b_dot, Ax)
        x_dot = system.inverse(
            c, maybe.sub(Ar, maybe.scale(shift, x)), maybe.if_undamped(damp, Ay)
        )
        r_dot = maybe.sub(c, None if x_dot is None else A.mv(x_dot))

        # The tangent of the dual needs one more solve, w = A⁺y. `Lazy` does it only if
        # that tangent is used.
        inputs = (A_dot, x_dot, Ay, maybe.sub(c, maybe.scale(shift, y)))
        y_dot = None
        if any(leaf is not None for leaf in jax.tree.leaves(inputs)):
            y_dot, _ = Lazy(_dual_tangent, (system, y), example=y)(inputs)
        return PrimalDual(x_dot, y_dot, r_dot)


def _dual_tangent(parameters: tuple[System, Vector], inputs: Any) -> Maybe:
    """ẏ = L_{Aᴴ}([λ = 0] ẋ − Ȧᴴy, [λ > 0] (ḃ − Ȧx − 2λλ̇y), [λ = 0] Ȧw), w = A⁺y."""
    system, y = parameters
    A_dot, x_dot, Ay, d = inputs
    A, damp = system.operator, system.damp
    Aw = None
    if jax.tree.leaves(A_dot):
        w = system.undamped().primal_dual(maybe.if_undamped(damp, y)).primal
        (Aw,) = maybe.tangent(lambda A: (A.mv(w),), A, A_dot)
    return system.at(A.H).inverse(
        maybe.sub(maybe.if_undamped(damp, x_dot), Ay), maybe.if_damped(damp, d), Aw
    )


class _L(AbstractLinearMap):
    system: System

    def apply(self, arg: tuple[Maybe, Maybe, Maybe]) -> tuple[Vector, None]:
        c, d, s = arg
        system = self.system
        A, damp = system.operator, system.damp
        adjoint = system.at(A.H)
        if damp is not None:
            d = maybe.add(d, maybe.scale(damp * damp, s))
        out = None
        if d is not None:
            c = None if c is None else A.adjoint_mv(c)
            out = adjoint.run(maybe.add(c, d))[0].dual
        elif c is not None:
            out = system.run(c)[0].primal
        if s is not None:
            null = adjoint.undamped().run(maybe.if_undamped(damp, s))[0].residual
            out = maybe.add(out, maybe.if_undamped(damp, null))
        return out, None

    def like(self, arg: tuple[Maybe, Maybe, Maybe]) -> Vector:
        c, d, s = arg
        if d is None and s is None:
            return self.system.operator.adjoint_mv(c)
        return s if d is None else d

    def transpose(self, arg: Any, cotangent: Maybe) -> Any:
        c, d, s = arg
        A = self.system.operator
        g = maybe.complete(cotangent, A.in_structure())
        if g is None:
            return None
        solution = self.system.at(A.transpose()).primal_dual(g)
        return (
            None if c is None else solution.primal,
            None if d is None else solution.dual,
            None if s is None else solution.residual,
        )

    def jvp(self, tangent: "_L", arg: Any, arg_tangent: Any, value: Vector) -> Maybe:
        system = self.system
        A, damp = system.operator, system.damp
        A_dot, damp_dot = tangent.system.operator, tangent.system.damp
        ends = (A.out_structure(), A.in_structure(), A.in_structure())
        dots = tuple(
            maybe.complete(t, e) for t, e in zip(arg_tangent, ends, strict=True)
        )
        if not jax.tree.leaves((A_dot, damp_dot)):
            return system.inverse(*dots)
        undamped = tuple(maybe.if_undamped(damp, z) for z in arg)
        moved = undamped_motion(system.undamped(), A_dot, undamped)
        if damp is not None:
            also = damped_motion(system, A_dot, damp_dot, arg, value)
            moved = tuple(
                maybe.add(maybe.if_undamped(damp, u), maybe.if_damped(damp, v))
                for u, v in zip(moved, also, strict=True)
            )
        inputs = tuple(map(maybe.add, dots, moved))
        return system.inverse(*inputs)
