"""How a solve is differentiated: implicitly, or through its iterations."""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import lineax as lx
from jaxtyping import Array, Float

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._solution import PrimalDual
from .._solver.base import AbstractSolver
from .._tree import Vector
from .primal_dual import Problem, checked

Scalar = Float[Array, ""]


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
        return Problem(operator, damp, solver, derivative_solver, throw).solve(vector)


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
        if isinstance(getattr(solver, "max_steps", None), jax.Array):
            raise TypeError(
                "`UnrolledAdjoint` needs a solver whose `max_steps` is an integer of "
                "Python: the loop is laid out for that many steps."
            )
        solution, stats = solver.run(operator, vector, damp, loop=_checkpointed_loop)
        return checked(solution, stats, throw), stats


def _checkpointed_loop(cond: Any, body: Any, carry: Any, max_steps: Any) -> Any:
    """A differentiable `while_loop`: √max_steps chunks, recomputed backward."""
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
