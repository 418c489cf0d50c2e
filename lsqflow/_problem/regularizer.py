"""Regularizers: terms for what is known of the solution beside the data."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._operator.convert import as_operator


class Tikhonov(eqx.Module):
    r"""The term $s^2 \|L (x - \mu)\|^2$, to be added to a least-squares problem.

    ```python
    smooth = lf.Tikhonov(lf.Difference((4,), boundary="none"), strength=0.1)
    lf.lstsq(A, b, regularizers=[smooth])
    ```

    **Use when** the data alone do not determine the solution, or determine it badly,
    and it is known to be smooth ($L$ takes differences), small, or near to $\mu$.

    Solutions can be differentiated with respect to strength, operator and prior. For
    strengths that differ between entries, use `lf.Diagonal(w) @ L`.

    **Cost:** one more product with $L$, and one with $L^H$, for each step. Without
    operator and prior the term is damping, which costs nothing.
    """

    operator: AbstractOperator | None
    strength: Float[Array, ""]
    prior: PyTree[Array] | None

    def __init__(
        self, operator: Any = None, strength: Any = 1.0, prior: Any = None
    ) -> None:
        r"""**Arguments:**

        - `operator`: $L$, such as [`lsqflow.Gradient`][]; by default the identity.
        - `strength`: $s$, a real scalar, by default 1. It enters squared, like `damp`.
        - `prior`: $\mu$, with the structure of the unknown; by default zero.

        **Raises:** `ValueError` unless the strength is a real scalar; `TypeError` for a
        number in the place of the operator.
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
