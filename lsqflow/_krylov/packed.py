"""The scalars of a recurrence as one array."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, Scalar


class Packed(eqx.Module):
    """A pytree of scalars as one array: a loop carry of twenty scalars is slow.

    Written with selections, which the compiler fuses with the scalars' own arithmetic;
    a concatenation would be a kernel for each.
    """

    values: Array
    positions: Any = eqx.field(static=True)

    @classmethod
    def of(cls, scalars: PyTree[Scalar]) -> "Packed":
        """Pack scalars of one dtype."""
        (first, *rest), treedef = jax.tree.flatten(scalars)
        positions = np.arange(len(rest) + 1)
        packed = jnp.full(positions.shape, first)
        for i, scalar in enumerate(rest, 1):
            packed = jnp.where(positions == i, scalar, packed)
        # Not the treedef: a pickled one is not the same again.
        return cls(packed, jax.tree.unflatten(treedef, range(len(positions))))

    def unpack(self) -> Any:
        """The scalars again."""
        scalars = list(self.values)
        return jax.tree.map(lambda i: scalars[i], self.positions)
