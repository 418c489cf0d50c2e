"""Pytrees as vectors: the only place that knows what a vector is made of.

Vectors stay pytrees; nothing is raveled. The scalars of a problem are real, also for
complex vectors. They are at least float32, also where vectors are stored in bfloat16.
"""

import functools as ft
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Scalar

Vector = PyTree[Array]
Structure = PyTree[jax.ShapeDtypeStruct]


def structure(tree: PyTree[Any]) -> Structure:
    """The shapes and dtypes of a pytree of arrays, without weak types."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree
    )


class StaticStructure:
    """A pytree of structures that can be compared and hashed: a static field."""

    def __init__(self, tree: PyTree[Any]) -> None:
        leaves, self._treedef = jax.tree.flatten(tree)
        self._leaves = tuple(leaves)

    @property
    def tree(self) -> PyTree[Any]:
        """The structures, as they were given."""
        return jax.tree.unflatten(self._treedef, self._leaves)

    def __hash__(self) -> int:
        return hash((self._leaves, self._treedef))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StaticStructure) and (
            (self._leaves, self._treedef) == (other._leaves, other._treedef)
        )

    def __repr__(self) -> str:
        return repr(self.tree)

    def __reduce__(self) -> Any:
        # JAX pickles tree definitions of built-in containers only.
        return StaticStructure, (self.tree,)


def zeros(structure: Structure) -> Vector:
    """A zero vector of the given structure."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), structure)


def size(tree: PyTree[Any]) -> int:
    """The number of scalars in a pytree of arrays or structures."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def storage_dtype(tree: PyTree[Any]) -> Any:
    """The coarsest real dtype of a pytree: the one that determines its rounding."""
    dtypes = [jnp.finfo(x.dtype).dtype for x in jax.tree.leaves(tree)]
    return max(dtypes, key=lambda d: jnp.finfo(d).eps, default=jnp.dtype("float32"))


def scalar_dtype(tree: PyTree[Any]) -> Any:
    """The real dtype in which norms and recurrences of `tree` are computed."""
    dtypes = [jnp.finfo(x.dtype).dtype for x in jax.tree.leaves(tree)]
    finest = min(dtypes, key=lambda d: jnp.finfo(d).eps, default=jnp.dtype("float32"))
    return _compute_dtype(finest)


def as_arrays(x: Any, name: str) -> Any:
    """A pytree of arrays, or a `TypeError` that names what is none."""

    def leaf(path: Any, value: Any) -> Array:
        try:
            return jnp.asarray(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"`{name}`{jax.tree_util.keystr(path)} must be an array of numbers; "
                f"got {value!r} of type {type(value).__name__}."
            ) from None

    return jax.tree_util.tree_map_with_path(leaf, x)


def require_inexact(tree: PyTree[Any], owner: str) -> None:
    """Raise a `TypeError` unless every leaf is real or complex floating point."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            msg = (
                f"{owner} works on real or complex floating-point arrays; got dtype "
                f"{leaf.dtype} at {jax.tree_util.keystr(path) or 'the top level'}. "
                "Convert it with `.astype(float)`. In place of a shape, pass an array "
                "or a `jax.ShapeDtypeStruct(shape, dtype)`."
            )
            raise TypeError(msg)


def is_complex(tree: PyTree[Any]) -> bool:
    """Whether any leaf is complex."""
    return any(
        jnp.issubdtype(x.dtype, jnp.complexfloating) for x in jax.tree.leaves(tree)
    )


def _compute_dtype(dtype: Any) -> Any:
    """The dtype itself; float32 for half precision."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype("float32")


def _abs2(x: Array) -> Array:
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return jnp.real(x) ** 2 + jnp.imag(x) ** 2
    return x.astype(_compute_dtype(x.dtype)) ** 2


def norm(tree: Vector) -> Scalar:
    """The Euclidean norm, in the scalar dtype; zero for an empty tree."""
    return safe_sqrt(_norm_squared(tree))


def norm_and_inverse(tree: Vector) -> tuple[Scalar, Scalar]:
    """The Euclidean norm and its inverse, which is 0 for a zero vector."""
    return root(_norm_squared(tree))


def _norm_squared(tree: Vector) -> Scalar:
    dtype = scalar_dtype(tree)
    squares = [jnp.sum(_abs2(x)).astype(dtype) for x in jax.tree.leaves(tree)]
    return _total(squares, dtype)


def inner(x: Vector, y: Vector) -> Scalar:
    """The real part of ⟨x, y⟩, in the scalar dtype."""
    dtype = scalar_dtype(x)

    def leaf(a: Array, b: Array) -> Array:
        a, b = (z.astype(_compute_dtype(z.dtype)) for z in (a, b))
        return jnp.sum(jnp.real(jnp.conj(a) * b)).astype(dtype)

    return _total(jax.tree.leaves(jax.tree.map(leaf, x, y)), dtype)


def _total(scalars: list[Array], dtype: Any) -> Array:
    if not scalars:
        return jnp.zeros((), dtype)
    return ft.reduce(jnp.add, scalars)


def scale(a: Scalar, x: Vector) -> Vector:
    """`a x`, computed in at least float32 and stored in the dtype of `x`."""

    def leaf(v: Array) -> Array:
        dtype = _compute_dtype(v.dtype)
        return (a.astype(dtype) * v.astype(dtype)).astype(v.dtype)

    return jax.tree.map(leaf, x)


def axpy(a: Scalar, x: Vector, y: Vector) -> Vector:
    """`a x + y`, computed in at least float32 and stored in the dtype of `y`."""

    def leaf(v: Array, w: Array) -> Array:
        dtype = _compute_dtype(w.dtype)
        return (a.astype(dtype) * v.astype(dtype) + w.astype(dtype)).astype(w.dtype)

    return jax.tree.map(leaf, x, y)


def add(x: Vector, y: Vector) -> Vector:
    """`x + y`."""
    return jax.tree.map(jnp.add, x, y)


def sub(x: Vector, y: Vector) -> Vector:
    """`x - y`."""
    return jax.tree.map(jnp.subtract, x, y)


def neg(x: Vector) -> Vector:
    """`-x`."""
    return jax.tree.map(jnp.negative, x)


def conj(x: Vector) -> Vector:
    """The complex conjugate; real leaves are returned as they are."""
    return jax.tree.map(
        lambda v: jnp.conj(v) if jnp.issubdtype(v.dtype, jnp.complexfloating) else v, x
    )


def zeros_like(x: Vector) -> Vector:
    """A zero vector of the shape, dtype and sharding of `x`."""
    return jax.tree.map(jnp.zeros_like, x)


def where(pred: Scalar, x: Vector, y: Vector) -> Vector:
    """Leafwise `jnp.where` with a scalar predicate."""
    return jax.tree.map(lambda a, b: jnp.where(pred, a, b), x, y)


def select(mask: PyTree[Array], x: Vector) -> Vector:
    """`x` where the mask is true, and zero elsewhere."""
    return jax.tree.map(lambda m, v: jnp.where(m, v, jnp.zeros_like(v)), mask, x)


def _unless(pred: Array, constant: int, a: Array) -> Array:
    """`jnp.where(pred, constant, a)` as one primitive: loops compile faster."""
    return jax.lax.select(pred, jax.lax.full_like(a, constant), a)


def safe_sqrt(a: Scalar) -> Scalar:
    """`√a`, with derivative 0 at 0. So steps after convergence do not lead to NaN."""
    zero = a == 0
    return _unless(zero, 0, jax.lax.sqrt(_unless(zero, 1, a)))


def root(a: Scalar) -> tuple[Scalar, Scalar]:
    """`√a` and `1 / √a`, both 0 at 0, for the price of one of them."""
    zero = a == 0
    inverse = _unless(zero, 0, jax.lax.rsqrt(_unless(zero, 1, a)))
    return a * inverse, inverse


def safe_reciprocal(a: Array) -> Array:
    """`1 / a`, and 0 where `a` is 0. So a breakdown ends in zeros and not in NaN."""
    zero = a == 0
    return _unless(zero, 0, 1 / _unless(zero, 1, a))
