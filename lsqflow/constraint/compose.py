"""Constraints made of constraints: `&`, `on`, and arguments drawn at random."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._operator.structure.stack import VStack
from .base import AbstractConstraint, conjunction, restricted
from .inputs import described, picked, require_function
from .part import Part


class All(AbstractConstraint):
    """Several constraints at once, `first & second & …`.

    The residual is the tuple of their residuals. All of them get the same further
    arguments.
    """

    constraints: tuple[AbstractConstraint, ...]

    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        return tuple(c.residual(params, *args) for c in self.constraints)

    def jacobian(self, params: PyTree[Array], *args: Any) -> AbstractOperator:
        return VStack(tuple(c.jacobian(params, *args) for c in self.constraints))

    def inequality(self) -> PyTree[bool]:
        return tuple(c.inequality() for c in self.constraints)

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        """The largest of the violations."""
        each = [c.violation(params, *args) for c in self.constraints]
        dtype = tree.scalar_dtype(each)
        return jnp.max(jnp.stack([v.astype(dtype) for v in each]))

    def at(self, step: ArrayLike) -> AbstractConstraint:
        return All(tuple(c.at(step) for c in self.constraints))

    def redrawn(self) -> bool:
        return any(c.redrawn() for c in self.constraints)

    def parts(self) -> tuple[AbstractConstraint, ...]:
        return tuple(part for c in self.constraints for part in c.parts())

    def on(self, where: Callable[[Any], Any]) -> AbstractConstraint:
        return All(tuple(c.on(where) for c in self.constraints))


class Restricted(AbstractConstraint):
    """A constraint on part of the parameters, `constraint.on(where)`."""

    constraint: AbstractConstraint
    where: Callable[[Any], Any]

    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        part = picked(self.where, params, f"{type(self.constraint).__name__}.on")
        return self.constraint.residual(part, *args)

    def jacobian(self, params: PyTree[Array], *args: Any) -> AbstractOperator:
        inner = self.constraint.jacobian(self.where(params), *args)
        return inner @ Part(self.where, params)

    def inequality(self) -> PyTree[bool]:
        return self.constraint.inequality()

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        return self.constraint.violation(self.where(params), *args)

    def redrawn(self) -> bool:
        return self.constraint.redrawn()

    def at(self, step: ArrayLike) -> AbstractConstraint:
        return Restricted(self.constraint.at(step), self.where)


@restricted.register(AbstractConstraint)
def _(constraint: AbstractConstraint, where: Callable[[Any], Any]) -> Restricted:
    return Restricted(constraint, where)


@conjunction.register(AbstractConstraint)
def _(first: AbstractConstraint, second: AbstractConstraint) -> All:
    return All((*first.parts(), *second.parts()))


class Sampled(AbstractConstraint):
    """A constraint whose further arguments are drawn anew at each step.

    Use it for fresh collocation points, probes or minibatches. What holds after a step
    is the constraint at the points of that step. The residual is that of the
    constraint, at what `key` draws. Training calls `at(step)`, which folds the step
    into the key.

    ```python
    def sampler(key):
        return (jax.random.uniform(key, (64,)),)


    lf.Sampled(lf.Equality(fn), sampler, jax.random.key(0))
    ```
    """

    constraint: AbstractConstraint
    sampler: Callable[[Key[Array, ""]], tuple[Any, ...]]
    key: Key[Array, ""]

    def __check_init__(self) -> None:
        if not isinstance(self.constraint, AbstractConstraint):
            raise TypeError(
                "`constraint` of `Sampled` must be a constraint, such as "
                f"`lsqflow.Equality(fn)`; got {described(self.constraint)}."
            )
        example = "lambda key: (jax.random.uniform(key, (64,)),)"
        require_function(self.sampler, "sampler", "Sampled", example)
        if not eqx.is_array(self.key):
            raise TypeError(
                "`key` of `Sampled` must be a random key, `jax.random.key(0)`; got "
                f"{described(self.key)}."
            )

    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        return self.constraint.residual(params, *self._draw(), *args)

    def jacobian(self, params: PyTree[Array], *args: Any) -> AbstractOperator:
        return self.constraint.jacobian(params, *self._draw(), *args)

    def inequality(self) -> PyTree[bool]:
        return self.constraint.inequality()

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        return self.constraint.violation(params, *self._draw(), *args)

    def redrawn(self) -> bool:
        return True

    def at(self, step: ArrayLike) -> AbstractConstraint:
        key = jax.random.fold_in(self.key, step)
        return Sampled(self.constraint.at(step), self.sampler, key)

    def _draw(self) -> tuple[Any, ...]:
        drawn = self.sampler(self.key)
        if not isinstance(drawn, tuple):
            raise TypeError(
                "The sampler of `lsqflow.Sampled` must return a tuple, the further "
                f"arguments of the constraint; got {described(drawn)}. Return "
                "`(points,)` for one argument."
            )
        return drawn


Sampled.__init__.__doc__ = """**Arguments:**

- `constraint`: the constraint. It gets what is drawn, and then other arguments.
- `sampler`: from a key to a tuple of further arguments.
- `key`: a random key, such as `jax.random.key(0)`.

**Raises:** `TypeError` if one of them is something else.
"""
