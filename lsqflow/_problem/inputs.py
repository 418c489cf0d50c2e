"""What users pass, as arrays that fit; or an error that says why they do not."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .. import _tree as tree
from .._jax import known
from .._operator.composite import same_structure
from .._operator.convert import OperatorLike, as_operator
from .._operator.display import brief
from .._tree import Structure, Vector
from .problem import Problem
from .regularizer import Tikhonov


class Stated(eqx.Module):
    """A problem as the user states it: checked, but not yet rewritten.

    `roots` are the square roots of the weights.
    """

    problem: Problem
    roots: Vector | None
    regularizers: tuple[Tikhonov, ...]
    x0: Vector | None


def stated(
    operator: OperatorLike,
    vector: Any,
    *,
    damp: Any,
    weights: Any,
    regularizers: Any,
    x0: Any,
) -> Stated:
    """Check what users pass. The arguments are those of [`lsqflow.lstsq`][]."""
    operator = as_operator(operator)
    source, target = operator.in_structure(), operator.out_structure()
    vector = conform(vector, target, "vector", "output")
    damp = None if damp is None else as_damp(damp, vector)
    return Stated(
        problem=Problem(operator, vector, damp),
        roots=None if weights is None else root_weights(weights, target),
        regularizers=_as_terms(regularizers),
        x0=None if x0 is None else conform(x0, source, "x0", "input"),
    )


def _as_terms(regularizers: Any) -> tuple[Tikhonov, ...]:
    if isinstance(regularizers, Tikhonov):
        raise TypeError(
            "`regularizers` must be a sequence of `lsqflow.Tikhonov`; got a single "
            "one. Put it into a list: `regularizers=[lsqflow.Tikhonov(...)]`."
        )
    if not isinstance(regularizers, list | tuple) or not all(
        isinstance(term, Tikhonov) for term in regularizers
    ):
        raise TypeError(
            "`regularizers` must be a sequence of `lsqflow.Tikhonov`; got "
            f"{regularizers!r}."
        )
    return tuple(regularizers)


def conform(x: Any, structure: Structure, name: str, end: str) -> Vector:
    """`x` as arrays of the given structure, or an error that says what is wrong."""
    x = tree.as_arrays(x, name)
    expected, got = jax.tree.structure(structure), jax.tree.structure(x)
    if expected != got:
        raise ValueError(
            f"`{name}` must have the pytree structure of the operator's {end}, "
            f"{expected}; got {got}.{_hint(x, structure)}"
        )

    def leaf(path: Any, want: jax.ShapeDtypeStruct, have: Array) -> Array:
        where = f"`{name}`{jax.tree_util.keystr(path)}"
        if have.shape != want.shape:
            hint = ""
            if have.ndim == len(want.shape) + 1 and have.shape[:-1] == want.shape:
                hint = (
                    " For several right-hand sides, map over them: "
                    "`jax.vmap(lambda b: lsqflow.lstsq(A, b), in_axes=-1)(B)`."
                )
            raise ValueError(
                f"{where} must have the shape of the operator's {end}, {want.shape}; "
                f"got {have.shape}.{hint}"
            )
        if not _safe_cast(have.dtype, want.dtype):
            raise TypeError(
                f"{where} must have the dtype of the operator's {end}, {want.dtype}; "
                f"got {have.dtype}. Convert one of the two with `.astype`: lsqflow "
                "changes no precision behind your back."
            )
        return have.astype(want.dtype)

    return jax.tree_util.tree_map_with_path(leaf, structure, x)


def _hint(x: Any, structure: Structure) -> str:
    """What to do about a list of numbers, which is a pytree of its entries."""
    one = jax.tree.structure(structure) == jax.tree.structure(0)
    if one and isinstance(x, list | tuple) and all(jnp.ndim(v) == 0 for v in x):
        return " A list is a pytree of its entries: convert it with `jnp.asarray`."
    return ""


def _safe_cast(have: Any, want: Any) -> bool:
    """Integers to anything; real to complex of the same precision."""
    if have == want or not jnp.issubdtype(have, jnp.inexact):
        return True
    real = not jnp.issubdtype(have, jnp.complexfloating)
    return real and jnp.finfo(want).dtype == have


def as_damp(damp: ArrayLike, vector: Vector) -> Float[Array, ""]:
    """The damping λ as an array, in the scalar dtype of the vector."""
    if isinstance(damp, int | float) and not damp >= 0:
        raise ValueError(f"`damp` must be non-negative; got {damp}.")
    array = tree.as_arrays(damp, "damp")
    if not isinstance(array, jax.Array):
        raise TypeError(f"`damp` must be a real scalar; got {damp!r}.")
    if array.shape != () or jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(
            f"`damp` must be a real scalar; got shape {array.shape} and dtype "
            f"{array.dtype}. To weight unknowns, scale columns of the operator."
        )
    return array.astype(tree.scalar_dtype(vector))


def root_weights(weights: Any, structure: Structure) -> Vector:
    """The square roots of weights, in the dtypes of the vectors they scale.

    A weight of zero becomes one too small to matter, whose root can be divided by and
    differentiated: the derivative with respect to a weight is finite at zero.
    """
    weights = tree.as_arrays(weights, "weights")
    expected, got = jax.tree.structure(structure), jax.tree.structure(weights)
    if expected != got:
        raise ValueError(
            "`weights` must have the pytree structure of the operator's output, "
            f"{expected}; got {got}."
        )

    def leaf(path: Any, s: jax.ShapeDtypeStruct, w: Array) -> Array:
        where = f"`weights`{jax.tree_util.keystr(path)}"
        real = jnp.finfo(s.dtype).dtype
        if jnp.issubdtype(w.dtype, jnp.complexfloating):
            raise TypeError(f"{where} must be real; got {w.dtype}.")
        if not _fits(w.shape, s.shape):
            raise ValueError(
                f"{where} must have the shape of the operator's output, {s.shape}, or "
                f"1 in place of some of its sizes; got {w.shape}."
            )
        values = known(w)
        if values is not None and not np.all(values >= 0):
            raise ValueError(f"{where} must not be negative, nor NaN.")
        w = jnp.broadcast_to(w.astype(real), s.shape)
        largest = jnp.max(w, initial=0)
        info = jnp.finfo(real)
        floor = jnp.maximum(largest * float(info.eps) ** 2, float(info.tiny))
        lift = jnp.where((w >= 0) & (w < floor), floor - w, jnp.zeros_like(w))
        return jnp.sqrt(w + jax.lax.stop_gradient(lift)).astype(s.dtype)

    return jax.tree_util.tree_map_with_path(leaf, structure, weights)


def _fits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether NumPy's rules broadcast an array of one shape to the other."""
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


def require_unknown(operator: Any, structure: Structure, name: str) -> None:
    """Raise a `ValueError` unless an operator acts on the unknown of a problem."""
    if not same_structure(operator.in_structure(), structure):
        raise ValueError(
            f"The operator of `{name}` must take the unknown, {brief(structure)}; it "
            f"takes {brief(operator.in_structure())}."
        )
