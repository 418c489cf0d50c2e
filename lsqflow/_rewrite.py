"""Problems restated: each rewrite returns another problem, and the way back."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from . import _tree as tree
from ._operator.base import AbstractOperator
from ._operator.damped import Damped
from ._solution import PrimalDual
from ._tree import Vector

Scalar = Float[Array, ""]
Problem = tuple[AbstractOperator, Vector, Scalar | None]


def warm_start(
    operator: AbstractOperator, vector: Vector, damp: Scalar | None, x0: Vector
) -> tuple[Problem, Callable[[PrimalDual], PrimalDual]]:
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
