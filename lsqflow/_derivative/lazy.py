"""A linear map that is computed only where somebody asks for it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._linear_map import AbstractLinearMap


class Lazy(AbstractLinearMap):
    """`fun(parameters, arg)`, linear in `arg`, computed only where it is needed.

    What `fun` computes from `parameters` alone is left until the map is applied or
    transposed, so that a derivative that nobody asks for costs nothing.
    """

    fun: Callable[[Any, Any], Any] = eqx.field(static=True)
    parameters: Any
    example: Any

    def apply(self, arg: Any) -> tuple[Any, Any]:
        return self.fun(self.parameters, arg), None

    def like(self, arg: Any) -> Any:
        return self.example

    def jvp(self, tangent: Any, arg: Any, arg_tangent: Any, value: Any) -> Any:
        _, out = eqx.filter_jvp(
            self.fun, (self.parameters, arg), (tangent.parameters, arg_tangent)
        )
        return out

    def transpose(self, arg: Any, cotangent: Any) -> Any:
        whole = jax.tree.map(
            lambda like, part: jnp.zeros_like(like) if part is None else part,
            self.example,
            cotangent,
            is_leaf=lambda x: x is None,
        )
        fun = lambda x: self.fun(self.parameters, x)
        (out,) = jax.linear_transpose(fun, arg)(whole)
        return out
