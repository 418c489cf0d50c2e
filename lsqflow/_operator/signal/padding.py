"""What lies beyond the boundary of an array."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact

from ... import _tree as tree
from ..._tree import Structure
from ..base import AbstractOperator
from .grid import Widths, require_choice

Boundary = Literal["zero", "wrap", "reflect", "symmetric", "edge"]
BOUNDARIES = ("zero", "wrap", "reflect", "symmetric", "edge")


def pad(
    x: Inexact[Array, "..."], widths: Widths, boundary: str
) -> Inexact[Array, "..."]:
    """`x` with values beyond its boundary."""
    if not np.any(widths):
        return x
    return jnp.pad(x, widths, mode="constant" if boundary == "zero" else boundary)


def pad_transposed(
    u: Inexact[Array, "..."], widths: Widths, boundary: str, shape: tuple[int, ...]
) -> Inexact[Array, "..."]:
    """Every padded value is added to where it came from."""
    period = {"zero": math.inf, "edge": math.inf, "reflect": -1}.get(boundary, 0)
    if any(max(width) > n + period for width, n in zip(widths, shape, strict=True)):
        like = jax.ShapeDtypeStruct(shape, u.dtype)
        return jax.linear_transpose(lambda x: pad(x, widths, boundary), like)(u)[0]
    # JAX's transpose adds arrays of full size, for which the compiler computes `u`
    # several times: five times slower after a convolution.
    for axis, (n, width) in enumerate(zip(shape, widths, strict=True)):
        u = _fold(u, n, width, boundary, axis)
    return u


def _fold(
    u: Array, size: int, width: tuple[int, int], boundary: str, axis: int
) -> Array:
    """The transpose of padding an axis by no more than its size."""
    before, after = width
    end = before + size
    inner = jax.lax.slice_in_dim(u, before, end, axis=axis)
    parts = (0, before), (end, end + after)
    starts = {
        "wrap": (size - before, 0),
        "reflect": (1, size - 1 - after),
        "symmetric": (0, size - after),
        "edge": (0, size - 1),
    }
    for (first, last), start in zip(parts, starts.get(boundary, ()), strict=False):
        if first == last:
            continue
        part = jax.lax.slice_in_dim(u, first, last, axis=axis)
        if boundary == "edge":
            part = jnp.sum(part, axis, keepdims=True)
        elif boundary != "wrap":
            part = jnp.flip(part, axis)
        stop = start + part.shape[axis]
        sums = part + jax.lax.slice_in_dim(inner, start, stop, axis=axis)
        inner = jax.lax.dynamic_update_slice_in_dim(inner, sums, start, axis)
    return inner


class Padding(AbstractOperator):
    """An array continued beyond its boundary, by a linear rule.

    For `a b c d` the rules give, with their names in `numpy.pad` and `scipy.ndimage`:

    | `mode` | values | NumPy | SciPy |
    |---|---|---|---|
    | `"zero"` | `0 0 0 [a b c d] 0 0 0` | `constant` | `grid-constant` |
    | `"wrap"` | `b c d [a b c d] a b c` | `wrap` | `grid-wrap` |
    | `"reflect"` | `d c b [a b c d] c b a` | `reflect` | `mirror` |
    | `"symmetric"` | `c b a [a b c d] d c b` | `symmetric` | `reflect` |
    | `"edge"` | `a a a [a b c d] d d d` | `edge` | `nearest` |

    The transpose adds every padded value to the one it was copied from; for `"zero"`
    it cuts the padding off.

    **Cost:** a copy.
    """

    widths: Widths = eqx.field(static=True)
    mode: Boundary = eqx.field(static=True)
    structure: tree.StaticStructure = eqx.field(static=True)

    def __init__(self, pad_width: Any, structure: Any, mode: Boundary = "zero") -> None:
        """**Arguments:**

        - `pad_width`: how many values to add, as in `numpy.pad`: one number, a pair
            `(before, after)` for every axis, or a sequence of pairs, one an axis.
        - `structure`: an array to be padded, or its `jax.ShapeDtypeStruct`.
        - `mode`: what lies beyond the boundary; see the table above.

        **Raises:** `ValueError` for a negative or badly shaped `pad_width`, an empty
        array or an unknown mode; `TypeError` unless the array is floating point.
        """
        require_choice(mode, BOUNDARIES, "modes", "`Padding`")
        like = tree.structure(structure)
        tree.require_inexact(like, "`Padding`")
        if not isinstance(like, jax.ShapeDtypeStruct) or 0 in like.shape:
            raise ValueError(
                "`Padding` takes the structure of one array that is not empty; got "
                f"{like}. Pad the leaves of a pytree one by one."
            )
        try:
            widths = np.broadcast_to(np.asarray(pad_width), (len(like.shape), 2))
        except ValueError:
            widths = np.full((1, 2), -1)
        if widths.dtype.kind not in "iu" or (widths < 0).any():
            raise ValueError(
                "`pad_width` must be an integer from 0 on, a pair of them, or one pair "
                f"for each of the {len(like.shape)} axes; got {pad_width!r}."
            )
        self.widths = tuple((int(before), int(after)) for before, after in widths)
        self.mode = mode
        self.structure = tree.StaticStructure(like)

    def mv(self, vector: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        return pad(vector, self.widths, self.mode)

    def in_structure(self) -> Structure:
        return self.structure.tree

    def linearise(self) -> AbstractOperator:
        return self
