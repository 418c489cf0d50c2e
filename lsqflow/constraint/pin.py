"""Constraints that give single entries of the parameters a value."""

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._operator.structure.selection import Mask
from .base import AbstractConstraint
from .part import Part


class AbstractPin(AbstractConstraint):
    """Some entries of the parameters have a given value, by default zero.

    A subclass says which, with `mask`. The Jacobian is a selection, so that training
    under the constraint, alone or together with others, needs no iterations for it.
    """

    @abc.abstractmethod
    def mask(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        """True for the entries that are given; a pytree of booleans like `params`."""

    def values(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        """The given values; what stands outside of the mask is ignored."""
        return tree.zeros_like(params)

    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        """`θ − value` in the mask, and zero elsewhere."""
        return jax.tree.map(
            lambda m, x, v: jnp.where(m, x - v, jnp.zeros_like(x)),
            self.mask(params, *args),
            params,
            self.values(params, *args),
        )

    def jacobian(self, params: PyTree[Array], *args: Any) -> AbstractOperator:
        """The mask, as a projector."""
        dtypes = jax.tree.map(lambda x: x.dtype, params)
        return Mask(self.mask(params, *args), dtypes)

    def at(self, step: ArrayLike) -> "AbstractPin":
        return self

    def on(self, where: Callable[[Any], Any]) -> "AbstractPin":
        return RestrictedPin(self, where)


class RestrictedPin(AbstractPin):
    """Given entries in part of the parameters."""

    constraint: AbstractPin
    where: Callable[[Any], Any]

    def mask(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        inner = self.constraint.mask(self.where(params), *args)
        return Part(self.where, params).embed_mask(inner)

    def values(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        inner = self.constraint.values(self.where(params), *args)
        return Part(self.where, params).rmv(inner)

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        return self.constraint.violation(self.where(params), *args)

    def at(self, step: ArrayLike) -> AbstractPin:
        return RestrictedPin(self.constraint.at(step), self.where)


class Fixed(AbstractPin):
    """Part of the parameters keeps its value, or takes given ones.

    The residual is the difference to the values, and zero elsewhere.

    ```python
    lf.Fixed(lambda params: params["embedding"])
    ```
    """

    where: Callable[[Any], Any]
    target: PyTree[Array] | None

    def __init__(
        self, where: Callable[[Any], Any], values: PyTree[Any] | None = None
    ) -> None:
        """**Arguments:**

        - `where`: picks the part of the parameters.
        - `values`: what it should be, with the structure of the part; by default, what
            it is.
        """
        self.where = where
        self.target = None if values is None else jax.tree.map(jnp.asarray, values)

    def mask(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        chosen = jax.tree.map(
            lambda x: jnp.ones(x.shape, jnp.bool_), self.where(params)
        )
        return Part(self.where, params).embed_mask(chosen)

    def values(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        if self.target is None:
            return params
        part = Part(self.where, params)
        return part.embed(self.target, "values")
