"""The set `lower ≤ x ≤ upper`."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, PyTree

from .. import _tree as tree
from .._jax import known
from .._tree import Structure, Vector

Free = PyTree[Bool[Array, "..."]]


class Box(eqx.Module):
    """The set `lower ≤ x ≤ upper`; both have the structure of `x`."""

    lower: Vector
    upper: Vector

    def project(self, x: Vector) -> Vector:
        """The nearest point of the box; exactly on a bound where `x` is beyond it."""
        return jax.tree.map(jnp.clip, x, self.lower, self.upper)

    def at_bounds(self, x: Vector) -> tuple[Free, Free]:
        """Which entries are at their lower bound, and which only at their upper one."""
        lower = jax.tree.map(jnp.equal, x, self.lower)
        upper = jax.tree.map(lambda v, u, at: (v == u) & ~at, x, self.upper, lower)
        return lower, upper

    def free(self, x: Vector, gradient: Vector) -> Free:
        """All entries except those whose bound stops a descent (the binding ones)."""

        def leaf(v: Array, g: Array, lower: Array, upper: Array) -> Array:
            return ~(((v <= lower) & (g >= 0)) | ((v >= upper) & (g <= 0)))

        return jax.tree.map(leaf, x, gradient, self.lower, self.upper)

    def inside(self, x: Vector) -> Free:
        """The entries strictly between their bounds."""
        return jax.tree.map(
            lambda v, a, b: (a < v) & (v < b), x, self.lower, self.upper
        )

    def first_hit(self, x: Vector, direction: Vector) -> Array:
        """The smallest length > 0 at which `x + length * direction` meets a bound."""

        def leaf(v: Array, d: Array, lower: Array, upper: Array) -> Array:
            way = jnp.where(d > 0, upper, lower) - v
            length = jnp.where(d == 0, jnp.inf, way / jnp.where(d == 0, 1, d))
            return jnp.min(jnp.where(length > 0, length, jnp.inf), initial=jnp.inf)

        hits = jax.tree.map(leaf, x, direction, self.lower, self.upper)
        dtype = tree.scalar_dtype(x)
        hits = [h.astype(dtype) for h in jax.tree.leaves(hits)]
        return jnp.min(jnp.stack([jnp.full((), jnp.inf, dtype), *hits]))

    def is_empty(self) -> Bool[Array, ""]:
        """Whether a lower bound exceeds the upper one, or a bound is NaN."""
        crossed = jax.tree.map(lambda a, b: ~jnp.all(a <= b), self.lower, self.upper)
        return jnp.any(jnp.stack([jnp.zeros((), bool), *jax.tree.leaves(crossed)]))


def equal(x: Free, y: Free) -> Bool[Array, ""]:
    """Whether two masks are the same."""
    same = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.all(a == b), x, y))
    return jnp.all(jnp.stack([jnp.ones((), bool), *same]))


def as_box(lower: Any, upper: Any, structure: Structure) -> Box:
    """Both bounds as arrays of the structure of the unknowns.

    **Raises:** `TypeError` if the unknowns are complex or a bound has another
    precision; `ValueError` if a structure or shape does not fit, or a bound that is
    known while tracing exceeds the other one.
    """
    if tree.is_complex(structure):
        raise TypeError(
            "`bounds` order the unknowns, which must be real; the operator takes "
            f"{structure}. Bound real and imaginary parts as a pytree of two arrays."
        )
    box = Box(
        _as_bound(lower, structure, "lower", -math.inf),
        _as_bound(upper, structure, "upper", math.inf),
    )
    for low, high in zip(
        jax.tree.leaves(box.lower), jax.tree.leaves(box.upper), strict=True
    ):
        # On the host: under `jit`, also operations on constants are traced.
        below, above = known(low), known(high)
        if below is None or above is None:
            continue
        if not np.all(below <= above):
            raise ValueError(
                "Every lower bound must be at most its upper bound, and neither NaN; "
                f"got lower = {box.lower} and upper = {box.upper}."
            )
    return box


def _as_bound(bound: Any, structure: Structure, name: str, infinite: float) -> Vector:
    single = jax.tree.structure(0.0)
    if jax.tree.structure(bound, is_leaf=_is_none) == single:
        value = bound
        bound = jax.tree.map(lambda _: value, structure)
    expected = jax.tree.structure(structure)
    got = jax.tree.structure(bound, is_leaf=_is_none)
    if expected != got:
        raise ValueError(
            f"`{name}` must be None, a scalar, or have the pytree structure of the "
            f"operator's input, {expected}; got {got}."
        )

    def leaf(path: Any, like: jax.ShapeDtypeStruct, value: ArrayLike | None) -> Array:
        where = f"`{name}`{jax.tree_util.keystr(path)}"
        dtype = like.dtype
        value = jnp.asarray(infinite if value is None else value)
        if value.shape not in ((), like.shape):
            raise ValueError(
                f"{where} must be a scalar or have the shape of the unknowns, "
                f"{like.shape}; got {value.shape}."
            )
        floating = jnp.issubdtype(value.dtype, jnp.inexact)
        if floating and not value.weak_type and value.dtype != dtype:
            raise TypeError(
                f"{where} must have the dtype of the unknowns, {dtype}; got "
                f"{value.dtype}. Convert it with `.astype`."
            )
        return jnp.broadcast_to(value.astype(dtype), like.shape)

    return jax.tree_util.tree_map_with_path(leaf, structure, bound)


def _is_none(x: Any) -> bool:
    return x is None
