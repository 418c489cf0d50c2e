"""The smallest of many numbers, without sorting them."""

import functools as ft
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, UInt

from .. import _tree as tree

# `low` and `high`, between which the threshold lies, and how many are below `high`.
Bracket = tuple[Array, Array, Array]

# Thresholds a pass. More of them need fewer passes, each of which takes longer.
_WAYS = 8


# Outside of a compiled program, a loop would be compiled at each call.
@jax.jit
def smallest(leaves: Sequence[Array], k: UInt[Array, ""]) -> list[Bool[Array, "..."]]:
    """Which are the `k` entries of smallest absolute value, over all leaves.

    A few more than `k` where several are equal to the largest of them; all entries that
    are zero, if at least `k` are. NaNs count as the largest.

    The bits of non-negative floating-point numbers, read as integers, have the order of
    the numbers. The threshold is found by bisection of these integers, into eight parts
    a pass. It ends as soon as the count is right.

    **Cost:** one pass over the data if `k` entries are zero, otherwise at most twelve
    for float32, and 22 for float64. Nothing of the size of the data is stored.

    **Arguments:**

    - `leaves`: floating-point arrays of any shapes and dtypes.
    - `k`: at most the number of entries, in a type that can count them.
    """
    # A choice has no derivative.
    leaves = [jax.lax.stop_gradient(x) for x in leaves]
    dtype = tree.scalar_dtype(leaves)
    integer = jnp.dtype(f"uint{jnp.finfo(dtype).bits}")

    def bits(x: Array) -> Array:
        return jax.lax.bitcast_convert_type(jnp.abs(x).astype(dtype), integer)

    def narrow(carry: Bracket, at: Array) -> Bracket:
        """The bracket, narrowed by one pass that counts at these thresholds."""
        low, high, below = carry
        # The barrier keeps the compiler from storing the bits outside of the loop.
        data, at = jax.lax.optimization_barrier((leaves, jnp.minimum(at, high)))
        counts = count([[bits(x) < t for t in at] for x in data], k.dtype)
        counts = jnp.stack(counts)
        few = counts < k
        return (
            jnp.max(jnp.where(few, at, low)),
            jnp.min(jnp.where(few, high, at)),
            jnp.min(jnp.where(few, below, counts)),
        )

    def divide(carry: Bracket) -> Bracket:
        low, high, _ = carry
        step = (high - low + _WAYS - 1) // _WAYS
        steps = jnp.arange(1, _WAYS, dtype=integer) * step
        return narrow(carry, low + steps)

    def unfinished(carry: Bracket) -> Array:
        low, high, below = carry
        return (high - low > 1) & (below != k)

    # Fewer than `k` entries are below `low`, and `below`, at least `k`, below `high`.
    low = jnp.zeros_like(k, dtype=integer)
    top = jnp.ones_like(low) << (jnp.iinfo(integer).bits - 1)
    high = jnp.where(k == 0, low, top)
    everything = low, high, jnp.where(k == 0, k, jnp.full_like(k, tree.size(leaves)))
    # First, a pass of two counts, the cheapest: which are zero, and which below one.
    first = jnp.stack([jnp.ones_like(low), bits(jnp.ones((), dtype))])
    start = narrow(everything, first)
    _, high, _ = jax.lax.while_loop(unfinished, divide, start)
    return [bits(x) < high for x in leaves]


def count(
    conditions: Sequence[Sequence[Bool[Array, "..."]]], dtype: Any
) -> list[UInt[Array, ""]]:
    """How often each condition is met, in one pass.

    **Arguments:**

    - `conditions`: for each leaf, as many boolean arrays of its shape as there are
        conditions.
    - `dtype`: that of the numbers.
    """
    totals = []
    for each in conditions:
        met = [c.astype(dtype) for c in each]
        zeros = [jnp.zeros((), dtype)] * len(met)
        # XLA on CPUs spreads a reduction with several outputs over vector lanes and
        # cores, and one with a single output over neither: it is 20 times slower.
        totals.append(jax.lax.reduce(met, zeros, _add, tuple(range(met[0].ndim))))
    return [ft.reduce(jnp.add, sums) for sums in zip(*totals, strict=True)]


def _add(x: Sequence[Array], y: Sequence[Array]) -> list[Array]:
    return [a + b for a, b in zip(x, y, strict=True)]


def count_dtype(size: int) -> Any:
    """An unsigned integer type for numbers up to `size`.

    **Raises:** `ValueError` if there is none.
    """
    if size < 2**32:
        return jnp.dtype("uint32")
    if not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"{size} weights cannot be counted in 32 bits. Use `scope='layer'`, or set "
            "`jax_enable_x64`."
        )
    return jnp.dtype("uint64")
