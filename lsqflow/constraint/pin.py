"""Constraints that give single entries of the parameters their values."""

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
from .inputs import picked, require_parameters, require_selection
from .part import Part


class AbstractPin(AbstractConstraint):
    """Some entries of the parameters have given values, by default zero.

    A subclass says which entries, with `mask`. The derivative is a selection, so
    training needs no iterations for it, alone or beside other constraints.
    """

    @abc.abstractmethod
    def mask(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        """A pytree of booleans like `params`, true for the entries that are given."""

    def values(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        """A pytree like `params` with the given values. Others are ignored."""
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
        require_selection(where, f"{type(self).__name__}.on")
        return RestrictedPin(self, where)


class RestrictedPin(AbstractPin):
    """A pin on part of the parameters, `pin.on(where)`."""

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
    """Part of the parameters keeps its values, or takes given ones.

    The residual is the difference from the values, and zero elsewhere.

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
        - `values`: its values, with the structure of the part; by default those that
            it has.

        **Raises:** `TypeError` if `where` is no function. The methods raise
        `ValueError` if the values do not fit the part.
        """
        require_selection(where, "Fixed")
        self.where = where
        self.target = None if values is None else jax.tree.map(jnp.asarray, values)

    def mask(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        require_parameters(params, "`lsqflow.Fixed`")
        chosen = jax.tree.map(
            lambda x: jnp.ones_like(x, jnp.bool_),
            picked(self.where, params, "Fixed"),
        )
        return Part(self.where, params).embed_mask(chosen)

    def values(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        if self.target is None:
            return params
        part = Part(self.where, params)
        return part.embed(self.target, "values")
