r"""How a solve is differentiated: the only file with a differentiation rule.

Two linear maps carry it, at a fixed operator $A$ and damping $\lambda$:

- $P_A : b \mapsto (x, y, r)$, the primal–dual solve: one run of a solver;
- $L_A : (c, d, s) \mapsto A^+ c + (A^H A)^+ d + N s$ with $N = I - A^+ A$, or, damped,
  $(A^H A + \lambda^2 I)^{-1} (A^H c + d + \lambda^2 s)$.

Each is the transpose of the other at $A^T$, and their tangents consist of the two, so
that derivatives of every order do. In reverse mode only $P$ runs: $P_A$ forward,
$P_{A^T}$ backward, once each. The derivation is in docs/devdocs/calculus.md.
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from . import _tree as tree
from ._linear_map import AbstractLinearMap, Lazy
from ._operator.base import AbstractOperator
from ._solution import PrimalDual, is_failure
from ._solver.base import AbstractSolver
from ._solver.run import run
from ._tree import Vector

Scalar = Float[Array, ""]
_Maybe = Vector | None


class _Problem(eqx.Module):
    """What P and L have in common: operator, damping, and who solves."""

    operator: AbstractOperator
    damp: Scalar | None
    solver: lx.AbstractLinearSolver
    derivative_solver: lx.AbstractLinearSolver
    throw: bool = eqx.field(static=True)

    def at(self, operator: AbstractOperator) -> "_Problem":
        """The derivative problem for another operator, such as the transposed one."""
        solver = self.derivative_solver
        return _Problem(operator, self.damp, solver, solver, self.throw)

    def undamped(self) -> "_Problem":
        """The derivative problem with λ = 0."""
        solver = self.derivative_solver
        return _Problem(self.operator, None, solver, solver, self.throw)

    def run(self, vector: Vector) -> tuple[PrimalDual, dict[str, Any]]:
        """Solve now; raise if that fails and the solve is to throw."""
        solution, stats = run(self.solver, self.operator, vector, self.damp)
        return _checked(solution, stats, self.throw), stats

    def primal_dual(self, vector: Vector) -> PrimalDual:
        """`P_A b`, differentiable."""
        return _P(self)(vector)[0]

    def inverse(self, c: _Maybe, d: _Maybe, s: _Maybe) -> _Maybe:
        """`L_A (c, d, s)`, differentiable; zero if all three are."""
        if c is None and d is None and s is None:
            return None
        return _L(self)((c, d, s))[0]


def _checked(solution: PrimalDual, stats: dict[str, Any], throw: bool) -> PrimalDual:  # noqa: FBT001
    """The solution; raising at run time if it failed and `throw` is true.

    The error hangs on a scalar of its own, so that no vector passes through the host,
    whatever its size and sharding.
    """
    if not throw:
        return solution
    reason = stats["stop_reason"]
    token = reason.error_if(jnp.zeros(()), is_failure(reason))
    solution, _ = jax.lax.optimization_barrier((solution, token))
    return solution


class _P(AbstractLinearMap):
    problem: _Problem

    def apply(self, arg: Vector) -> tuple[PrimalDual, dict[str, Any]]:
        return self.problem.run(arg)

    def transpose(self, arg: Any, cotangent: PrimalDual) -> _Maybe:
        del arg
        problem = self.problem
        A = problem.operator
        return problem.at(A.transpose()).inverse(
            _complete(cotangent.primal, A.in_structure()),
            _complete(cotangent.dual, A.out_structure()),
            _complete(cotangent.residual, A.out_structure()),
        )

    def jvp(
        self, tangent: "_P", arg: Vector, arg_tangent: _Maybe
    ) -> tuple[PrimalDual, PrimalDual, dict[str, Any]]:
        problem = self.problem.at(self.problem.operator)
        A, damp = problem.operator, problem.damp
        solution, stats = self(arg)
        x, y, r = solution.primal, solution.dual, solution.residual
        b_dot = _complete(arg_tangent, A.out_structure())
        A_dot, damp_dot = tangent.problem.operator, tangent.problem.damp

        # ẋ = L(ḃ − Ȧx, Ȧᴴr − 2λλ̇x, [λ = 0] Ȧᴴy),  ṙ = ḃ − Ȧx − Aẋ
        Ax, Ar, Ay = _tangent(
            lambda A: (A.mv(x), A.adjoint_mv(r), A.adjoint_mv(y)), A, A_dot
        )
        shift = _shift(damp, damp_dot)
        c = _sub(b_dot, Ax)
        x_dot = problem.inverse(c, _sub(Ar, _scale(shift, x)), _if_undamped(damp, Ay))
        r_dot = _sub(c, None if x_dot is None else A.mv(x_dot))

        # The tangent of the dual needs one more solve, w = A⁺y; Lazy leaves it until
        # somebody reads that tangent.
        inputs = (A_dot, x_dot, Ay, _sub(c, _scale(shift, y)))
        y_dot = None
        if any(leaf is not None for leaf in jax.tree.leaves(inputs)):
            y_dot, _ = Lazy(_dual_tangent, (problem, y))(inputs)
        return solution, PrimalDual(x_dot, y_dot, r_dot), stats


def _dual_tangent(parameters: tuple[_Problem, Vector], inputs: Any) -> _Maybe:
    """ẏ = L_{Aᴴ}([λ = 0] ẋ − Ȧᴴy, [λ > 0] (ḃ − Ȧx − 2λλ̇y), [λ = 0] Ȧw), w = A⁺y."""
    problem, y = parameters
    A_dot, x_dot, Ay, d = inputs
    A, damp = problem.operator, problem.damp
    Aw = None
    if jax.tree.leaves(A_dot):
        w = problem.undamped().primal_dual(_if_undamped(damp, y)).primal
        (Aw,) = _tangent(lambda A: (A.mv(w),), A, A_dot)
    return problem.at(A.H).inverse(
        _sub(_if_undamped(damp, x_dot), Ay), _if_damped(damp, d), Aw
    )


class _L(AbstractLinearMap):
    problem: _Problem

    def apply(self, arg: tuple[_Maybe, _Maybe, _Maybe]) -> tuple[Vector, None]:
        c, d, s = arg
        problem = self.problem
        A, damp = problem.operator, problem.damp
        adjoint = problem.at(A.H)
        if damp is not None:
            d = _add(d, _scale(damp * damp, s))
        out = None
        if d is not None:
            c = None if c is None else A.adjoint_mv(c)
            out = adjoint.run(_add(c, d))[0].dual
        elif c is not None:
            out = problem.run(c)[0].primal
        if s is not None:
            null = adjoint.undamped().run(_if_undamped(damp, s))[0].residual
            out = _add(out, _if_undamped(damp, null))
        return out, None

    def transpose(self, arg: Any, cotangent: _Maybe) -> Any:
        c, d, s = arg
        A = self.problem.operator
        g = _complete(cotangent, A.in_structure())
        if g is None:
            return None
        solution = self.problem.at(A.transpose()).primal_dual(g)
        return (
            None if c is None else solution.primal,
            None if d is None else solution.dual,
            None if s is None else solution.residual,
        )

    def jvp(self, tangent: "_L", arg: Any, arg_tangent: Any) -> tuple[Any, Any, None]:
        problem = self.problem
        A, damp = problem.operator, problem.damp
        A_dot, damp_dot = tangent.problem.operator, tangent.problem.damp
        out, _ = self(arg)
        ends = (A.out_structure(), A.in_structure(), A.in_structure())
        dots = tuple(_complete(t, e) for t, e in zip(arg_tangent, ends, strict=True))
        if not jax.tree.leaves((A_dot, damp_dot)):
            return out, problem.inverse(*dots), None
        undamped = tuple(_if_undamped(damp, z) for z in arg)
        moved = _undamped_motion(problem.undamped(), A_dot, undamped)
        if damp is not None:
            also = _damped_motion(problem, A_dot, damp_dot, arg, out)
            moved = tuple(
                _add(_if_undamped(damp, u), _if_damped(damp, v))
                for u, v in zip(moved, also, strict=True)
            )
        inputs = tuple(map(_add, dots, moved))
        return out, problem.inverse(*inputs), None


def _undamped_motion(problem: _Problem, A_dot: Any, arg: Any) -> tuple[_Maybe, ...]:
    """What moves `L_A (c, d, s)` with `A`, as further arguments of `L_A`; λ = 0.

    −Ȧx₁ + ż₂ − Ȧp₂ − Ȧn₃,  Ȧᴴr₁,  Ȧᴴ(y₁ + y₂ − z₃), with (x₁, y₁, r₁) = P_A c,
    (z₂, p₂, n₂) = P_{Aᴴ} d, y₂ the dual of P_A z₂, (z₃, ·, n₃) = P_{Aᴴ} s, and
    ż₂ = L_{Aᴴ}(−Ȧᴴz₂, Ȧn₂, Ȧp₂).
    """
    c, d, s = arg
    A = problem.operator
    adjoint = problem.at(A.H)
    to_c = to_d = to_s = None
    if c is not None:
        first = problem.primal_dual(c)
        Ax, to_d, to_s = _tangent(
            lambda A: (
                A.mv(first.primal),
                A.adjoint_mv(first.residual),
                A.adjoint_mv(first.dual),
            ),
            A,
            A_dot,
        )
        to_c = _sub(None, Ax)
    if d is not None:
        second = adjoint.primal_dual(d)
        y = problem.primal_dual(second.primal).dual
        Ap, An, Az, Ay = _tangent(
            lambda A: (
                A.mv(second.dual),
                A.mv(second.residual),
                A.adjoint_mv(second.primal),
                A.adjoint_mv(y),
            ),
            A,
            A_dot,
        )
        z_dot = adjoint.inverse(_sub(None, Az), An, Ap)
        to_c = _sub(_add(to_c, z_dot), Ap)
        to_s = _add(to_s, Ay)
    if s is not None:
        third = adjoint.primal_dual(s)
        An, Az = _tangent(
            lambda A: (A.mv(third.residual), A.adjoint_mv(third.primal)), A, A_dot
        )
        to_c = _sub(to_c, An)
        to_s = _sub(to_s, Az)
    return to_c, to_d, to_s


def _damped_motion(
    problem: _Problem, A_dot: Any, damp_dot: Any, arg: Any, out: Vector
) -> tuple[_Maybe, ...]:
    """The same for λ > 0: −Ȧo,  Ȧᴴ(c − Ao) + 2λλ̇(s − o),  0, with o the value."""
    c, _, s = arg
    gap = _sub(c, problem.operator.mv(out))
    Ao, Agap = _tangent(
        lambda A: (A.mv(out), A.adjoint_mv(gap)), problem.operator, A_dot
    )
    shift = _shift(problem.damp, damp_dot)
    return _sub(None, Ao), _add(Agap, _scale(shift, _sub(s, out))), None


def _tangent(products: Any, A: AbstractOperator, A_dot: Any) -> tuple[_Maybe, ...]:
    """The tangent of products with `A` as `A` moves along `A_dot`."""
    if not jax.tree.leaves(A_dot):
        return tuple(None for _ in jax.eval_shape(products, A))
    value, tangent = eqx.filter_jvp(products, (A,), (A_dot,))
    return tuple(
        _complete(t, tree.structure(v)) for t, v in zip(tangent, value, strict=True)
    )


def _shift(damp: Scalar | None, damp_dot: Scalar | None) -> Scalar | None:
    return None if damp is None or damp_dot is None else 2 * damp * damp_dot


def _scale(a: Scalar | None, x: _Maybe) -> _Maybe:
    return None if a is None or x is None else tree.scale(a, x)


def _add(x: _Maybe, y: _Maybe) -> _Maybe:
    if x is None or y is None:
        return y if x is None else x
    return tree.add(x, y)


def _sub(x: _Maybe, y: _Maybe) -> _Maybe:
    return _add(x, None if y is None else tree.neg(y))


def _if_undamped(damp: Scalar | None, x: _Maybe) -> _Maybe:
    """`x` where λ = 0, else zero."""
    if damp is None or x is None:
        return x
    return tree.where(damp == 0, x, tree.zeros_like(x))


def _if_damped(damp: Scalar | None, x: _Maybe) -> _Maybe:
    """`x` where λ > 0, else zero."""
    if damp is None or x is None:
        return None
    return tree.where(damp == 0, tree.zeros_like(x), x)


def _complete(x: _Maybe, structure: tree.Structure) -> _Maybe:
    """A tangent or cotangent with zeros filled in, or `None` if it is all zero."""
    if not jax.tree.leaves(x):
        return None
    return jax.tree.map(
        lambda s, leaf: jnp.zeros(s.shape, s.dtype) if leaf is None else leaf,
        structure,
        x,
        is_leaf=lambda z: z is None,
    )


class AbstractAdjoint(eqx.Module):
    """How derivatives of a solve are computed."""

    @abc.abstractmethod
    def solve(
        self,
        operator: AbstractOperator,
        vector: Vector,
        damp: Scalar | None,
        solver: lx.AbstractLinearSolver,
        *,
        throw: bool,
    ) -> tuple[PrimalDual, dict[str, Any]]:
        """Solve, differentiably."""


class ImplicitAdjoint(AbstractAdjoint):
    """Derivatives by the implicit function theorem: one solve backward, of any size.

    A reverse-mode derivative runs one primal–dual solve of the transposed problem,
    whatever the shape and rank, damped or not; memory does not depend on the number of
    steps. All orders, forward and reverse, are supported.
    """

    solver: lx.AbstractLinearSolver | None = None

    def solve(
        self,
        operator: AbstractOperator,
        vector: Vector,
        damp: Scalar | None,
        solver: lx.AbstractLinearSolver,
        *,
        throw: bool,
    ) -> tuple[PrimalDual, dict[str, Any]]:
        derivative_solver = solver if self.solver is None else self.solver
        return _P(_Problem(operator, damp, solver, derivative_solver, throw))(vector)


ImplicitAdjoint.__init__.__doc__ = """**Arguments:**

- `solver`: who solves for derivatives, such as the same method with other tolerances;
    `None` for the solver of the problem itself.
"""


class UnrolledAdjoint(AbstractAdjoint):
    """Derivatives of the iterations themselves, by checkpointed backpropagation.

    These are the derivatives of the iterate that a truncated solve returns, not of the
    solution. A gradient costs more than twice the steps, and memory for about
    `2 √max_steps` iterates; set the solver's `max_steps` to what is needed, since the
    loop is laid out for that many. Forward and reverse mode; needs an iterative solver.
    """

    def solve(
        self,
        operator: AbstractOperator,
        vector: Vector,
        damp: Scalar | None,
        solver: lx.AbstractLinearSolver,
        *,
        throw: bool,
    ) -> tuple[PrimalDual, dict[str, Any]]:
        if not isinstance(solver, AbstractSolver):
            raise TypeError(
                "`UnrolledAdjoint` differentiates the iterations of an lsqflow solver, "
                f"such as `lsqflow.LSMR`; got {type(solver).__name__}."
            )
        solution, stats = solver.run(operator, vector, damp, loop=_checkpointed_loop)
        return _checked(solution, stats, throw), stats


def _checkpointed_loop(cond: Any, body: Any, carry: Any, max_steps: int) -> Any:
    """A differentiable `while_loop`: chunks of √max_steps steps, recomputed backward."""
    length = math.isqrt(max(max_steps, 1) - 1) + 1
    dynamic, static = eqx.partition(carry, eqx.is_array)

    def step(dynamic: Any, _: None) -> tuple[Any, None]:
        carry = eqx.combine(dynamic, static)
        new = eqx.filter(body(carry), eqx.is_array)
        return tree.where(cond(carry), new, dynamic), None

    @jax.checkpoint
    def chunk(dynamic: Any) -> Any:
        return jax.lax.scan(step, dynamic, length=length)[0]

    def chunk_if_needed(dynamic: Any, _: None) -> tuple[Any, None]:
        needed = cond(eqx.combine(dynamic, static))
        return jax.lax.cond(needed, chunk, lambda x: x, dynamic), None

    chunks = -(-max_steps // length)
    dynamic, _ = jax.lax.scan(chunk_if_needed, dynamic, length=chunks)
    return eqx.combine(dynamic, static)
