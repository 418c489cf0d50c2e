"""Vector arithmetic in which `None` is a zero known at trace time.

Rules of derivatives skip what is known to be zero. With this they stay readable.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._tree import Vector

Scalar = Float[Array, ""]
Maybe = Vector | None


def shift(damp: Scalar | None, damp_dot: Scalar | None) -> Scalar | None:
    return None if damp is None or damp_dot is None else 2 * damp * damp_dot


def scale(a: Scalar | None, x: Maybe) -> Maybe:
    return None if a is None or x is None else tree.scale(a, x)


def add(x: Maybe, y: Maybe) -> Maybe:
    if x is None or y is None:
        return y if x is None else x
    return tree.add(x, y)


def sub(x: Maybe, y: Maybe) -> Maybe:
    return add(x, None if y is None else tree.neg(y))


def if_undamped(damp: Scalar | None, x: Maybe) -> Maybe:
    """`x` where λ = 0, else zero."""
    if damp is None or x is None:
        return x
    return tree.where(damp == 0, x, tree.zeros_like(x))


def if_damped(damp: Scalar | None, x: Maybe) -> Maybe:
    """`x` where λ > 0, else zero."""
    if damp is None or x is None:
        return None
    return tree.where(damp == 0, tree.zeros_like(x), x)


def complete(x: Maybe, structure: tree.Structure) -> Maybe:
    """A tangent or cotangent with its zeros filled in; `None` if all of it is zero."""
    if not jax.tree.leaves(x):
        return None

    def leaf(s: Any, value: Any) -> Any:
        # A structure may have None in place of a leaf: there is no vector then.
        return jnp.zeros(s.shape, s.dtype) if value is None and s is not None else value

    return jax.tree.map(leaf, structure, x, is_leaf=lambda z: z is None)


def tangent(products: Any, A: AbstractOperator, A_dot: Any) -> tuple[Maybe, ...]:
    """The tangent of products with `A` as `A` moves along `A_dot`."""
    if not jax.tree.leaves(A_dot):
        return tuple(None for _ in eqx.filter_eval_shape(products, A))
    value, dots = eqx.filter_jvp(products, (A,), (A_dot,))
    return tuple(
        complete(t, tree.structure(v)) for t, v in zip(dots, value, strict=True)
    )
