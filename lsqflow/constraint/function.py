"""Constraints from plain functions."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, PyTree

from .base import AbstractConstraint
from .inputs import require_function

_EXAMPLE = "lambda params: jnp.sum(params) - 1"


class Equality(AbstractConstraint):
    """`fn(params, *args) = 0`, for any differentiable function.

    The residual is what the function returns. Training linearises it once a step, and
    forms no matrix of the size rows × parameters.

    ```python
    lf.Equality(lambda params: params["x"] + params["y"] - 1)
    ```
    """

    fn: Callable[..., PyTree[Array]]

    def __check_init__(self) -> None:
        require_function(self.fn, "fn", "Equality", _EXAMPLE)

    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        return self.fn(params, *args)


Equality.__init__.__doc__ = """**Arguments:**

- `fn`: from parameters, and further arguments, to a pytree of floating-point arrays.

**Raises:** `TypeError` if `fn` is no function.
"""


class Inequality(AbstractConstraint):
    """`fn(params, *args) ≤ 0`, entry by entry.

    The residual is what the function returns. Where it is negative, the constraint
    holds with room to spare, and does nothing.

    ```python
    lf.Inequality(lambda params: jnp.sum(params["w"] ** 2) - 1)
    ```
    """

    fn: Callable[..., PyTree[Array]]

    def __check_init__(self) -> None:
        require_function(self.fn, "fn", "Inequality", _EXAMPLE)

    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        return self.fn(params, *args)

    def inequality(self) -> PyTree[bool]:
        return True


Inequality.__init__.__doc__ = """**Arguments:**

- `fn`: from parameters, and further arguments, to a pytree of floating-point arrays.

**Raises:** `TypeError` if `fn` is no function.
"""
