"""Arguments of the operators on regular grids, and sums over shifted arrays."""

import functools as ft
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from ... import _tree as tree

Shape = tuple[int, ...]
Widths = tuple[tuple[int, int], ...]


def parse_shape(shape: int | Iterable[int], owner: str) -> Shape:
    """A shape as a tuple of positive integers."""
    sizes = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    try:
        sizes = tuple(map(operator.index, sizes))
    except TypeError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise ValueError(
            f"{owner} needs a shape of one or more positive integers; got {shape!r}."
        )
    return sizes


def parse_axes(axes: int | Iterable[int] | None, ndim: int, owner: str) -> Shape:
    """Axes as distinct numbers from 0 on; all of them for `None`."""
    if axes is None:
        return tuple(range(ndim))
    given = tuple(axes) if isinstance(axes, Iterable) else (axes,)
    numbers = tuple(axis + ndim if axis < 0 else axis for axis in given)
    inside = all(0 <= axis < ndim for axis in numbers)
    if not numbers or not inside or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"{owner} needs distinct axes from {-ndim} to {ndim - 1} for arrays of "
            f"{ndim} dimensions; got {axes!r}."
        )
    return numbers


def parse_dtype(dtype: Any, owner: str, default: Any = float) -> Any:
    """A real or complex floating-point dtype; JAX's own for `None`."""
    found = jnp.result_type(default if dtype is None else dtype)
    tree.require_inexact(jax.ShapeDtypeStruct((), found), owner)
    return found


def require_choice(value: Any, choices: Sequence[str], what: str, owner: str) -> None:
    """Raise a `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(
            f"{owner} knows the {what} {', '.join(map(repr, choices))}; got {value!r}."
        )


def real_dtype(dtype: Any) -> Any:
    """The dtype of the real part."""
    return jnp.finfo(dtype).dtype


def windowed_sum(
    x: Inexact[Array, "..."],
    offsets: Sequence[Shape],
    weights: Sequence[Any],
    shape: Shape,
) -> Inexact[Array, "..."]:
    """`Σ_t w_t x[o_t : o_t + shape]`, which the compiler fuses into one loop.

    On a CPU, with some dozens of terms, up to 80 times faster than its convolutions.
    """
    terms = (
        weight * jax.lax.slice(x, o, tuple(map(operator.add, o, shape)))
        for o, weight in zip(offsets, weights, strict=True)
    )
    return ft.reduce(jnp.add, terms)


def windowed_sum_transposed(
    u: Inexact[Array, "..."],
    offsets: Sequence[Shape],
    weights: Sequence[Any],
    shape: Shape,
) -> Inexact[Array, "..."]:
    """The transpose of `windowed_sum` for `x` of the given shape: again such a sum.

    JAX's own transpose adds padded arrays, one at a time: ten times slower.
    """
    reach = tuple(map(max, zip(*offsets, strict=True)))
    beyond = (n - m for n, m in zip(shape, u.shape, strict=True))
    padded = jnp.pad(u, tuple(zip(reach, beyond, strict=True)))
    mirrored = [tuple(map(operator.sub, reach, o)) for o in offsets]
    return windowed_sum(padded, mirrored, weights, shape)
