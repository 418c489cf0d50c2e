"""One way to run any solver, ours or lineax's."""

from typing import Any

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from .. import _tree as tree
from .._krylov.golub_kahan import Pair
from .._operator.base import AbstractOperator
from .._solution import PrimalDual, StopReason
from .._tree import Vector
from .base import AbstractSolver

Scalar = Float[Array, ""]


def run(
    solver: lx.AbstractLinearSolver,
    operator: AbstractOperator,
    vector: Vector,
    damp: Scalar | None,
) -> tuple[PrimalDual, dict[str, Any]]:
    """The primal–dual solve that every derivative consists of."""
    if isinstance(solver, AbstractSolver):
        return solver.run(operator, vector, damp)
    raise NotImplementedError
