"""Terms beside the data: what is known of the solution before it is measured."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._operator.convert import as_operator


class Tikhonov(eqx.Module):
    r"""The term $s^2 \|L (x - \mu)\|^2$: smoothness, smallness, nearness to a prior.

    Solutions are differentiable with respect to strength, operator and prior. For
    strengths that differ from entry to entry, put `lf.Diagonal(w) @ L`.
    """

    operator: AbstractOperator | None
    strength: Float[Array, ""]
    prior: PyTree[Array] | None

    def __init__(
        self, operator: Any = None, strength: Any = 1.0, prior: Any = None
    ) -> None:
        r"""**Arguments:**

        - `operator`: $L$, such as [`lsqflow.Gradient`][]; by default the identity.
        - `strength`: $s$, a real scalar. It enters squared, like `damp`.
        - `prior`: $\mu$, with the structure of the unknown; by default zero.

        **Raises:** `ValueError` unless the strength is a real scalar.
        """
        if isinstance(operator, int | float):
            raise TypeError(
                "The first argument of `Tikhonov` is the operator; got the number "
                f"{operator}. For a strength write `lsqflow.Tikhonov(strength="
                f"{operator})`."
            )
        self.operator = None if operator is None else as_operator(operator)
        self.strength = tree.as_arrays(strength, "strength")
        if self.strength.shape != () or jnp.iscomplexobj(self.strength):
            raise ValueError(
                "The `strength` of a regularizer must be a real scalar; got shape "
                f"{self.strength.shape} and dtype {self.strength.dtype}. For entrywise "
                "strengths, put `lsqflow.Diagonal(weights) @ operator`."
            )
        self.prior = tree.as_arrays(prior, "prior")
