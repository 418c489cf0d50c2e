"""Problems restated: each rewrite returns another problem, and the way back."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _tree as tree
from .._operator import algebra
from .._operator.base import AbstractOperator
from .._operator.diagonal import Diagonal, Identity
from .._operator.structure.damped import Damped
from .._operator.structure.stack import VStack
from .._solution import PrimalDual
from .._tree import Vector
from .inputs import conform, require_unknown
from .regularizer import Tikhonov

Scalar = Float[Array, ""]
Problem = tuple[AbstractOperator, Vector, Scalar | None]
Back = Callable[[PrimalDual], PrimalDual]


def weighted(
    operator: AbstractOperator, vector: Vector, roots: Vector
) -> tuple[tuple[AbstractOperator, Vector], Back]:
    """Minimise `‖W½ (A x − b)‖²`, given the square roots of the weights."""
    scaling = Diagonal(roots)

    def back(solution: PrimalDual) -> PrimalDual:
        residual = jax.tree.map(jnp.divide, solution.residual, roots)
        dual = None if solution.dual is None else scaling.mv(solution.dual)
        return PrimalDual(solution.primal, dual, residual)

    return (scaling @ operator, scaling.mv(vector)), back


def regularized(
    operator: AbstractOperator, vector: Vector, regularizers: Sequence[Tikhonov]
) -> tuple[tuple[AbstractOperator, Vector], Back]:
    """Stack the terms below the data: `[A; s₁ L₁; …]` and `(b, s₁ L₁ μ₁, …)`."""
    source = operator.in_structure()
    rows, targets = [operator], [vector]
    for i, term in enumerate(regularizers):
        L = Identity(source) if term.operator is None else term.operator
        name = f"regularizers[{i}]"
        require_unknown(L, source, name)
        L = algebra.scale(term.strength, L)
        rows.append(L)
        if term.prior is None:
            targets.append(tree.zeros(L.out_structure()))
        else:
            targets.append(L.mv(conform(term.prior, source, f"{name}.prior", "input")))

    def back(solution: PrimalDual) -> PrimalDual:
        dual = None if solution.dual is None else solution.dual[0]
        return PrimalDual(solution.primal, dual, solution.residual[0])

    return (VStack(tuple(rows)), tuple(targets)), back


def warm_start(
    operator: AbstractOperator, vector: Vector, damp: Scalar | None, x0: Vector
) -> tuple[Problem, Back]:
    """Solve for the correction to `x0`.

    Undamped, its right-hand side is `b − A x0`. Damped, this is not enough: it is
    `(b − A x0, −λ x0)` for the stacked operator `[A; λ I]`. `x0` is a hint and gets no
    derivative.
    """
    x0 = jax.lax.stop_gradient(x0)
    shifted = tree.sub(vector, operator.mv(x0))
    if damp is None:

        def back(correction: PrimalDual) -> PrimalDual:
            x = tree.add(x0, correction.primal)
            return PrimalDual(x, correction.dual, correction.residual)

        return (operator, shifted, None), back

    def back_damped(correction: PrimalDual) -> PrimalDual:
        x = tree.add(x0, correction.primal)
        residual, _ = correction.residual
        scaled = tree.scale(tree.safe_reciprocal(damp * damp), residual)
        dual = tree.where(damp == 0, correction.dual[0], scaled)
        return PrimalDual(x, dual, residual)

    stacked = (shifted, tree.scale(-damp, x0))
    return (Damped(operator, damp), stacked, None), back_damped
