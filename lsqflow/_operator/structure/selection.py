"""Operators that choose or reorder entries: masks, rows, leaves, permutations."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from ... import _tree as tree
from ..._jax import known, manual_axes, vary
from ..._tree import Structure, Vector
from ..base import AbstractOperator
from ..diagonal import DIAGONAL_TAGS
from ..display import brief
from .rearrangement import AbstractRearrangement


class Mask(AbstractOperator):
    r"""`(A x)ᵢ = xᵢ` where the mask is true, and 0 elsewhere: a projector.

    **Cost:** one selection an entry.
    """

    jax_transposes_well = True

    mask: PyTree[Bool[Array, "..."]]
    structure: tree.StaticStructure = eqx.field(static=True)

    def __init__(self, mask: PyTree[Any], dtype: Any = float) -> None:
        """**Arguments:**

        - `mask`: a pytree of boolean arrays; vectors have its shapes.
        - `dtype`: the floating-point dtype of the vectors, or a pytree of dtypes.

        **Raises:** `TypeError` unless the mask is boolean and the dtype inexact.
        """
        self.mask = jax.tree.map(jnp.asarray, mask)
        for leaf in jax.tree.leaves(self.mask):
            if leaf.dtype != jnp.bool_:
                raise TypeError(
                    f"`Mask` needs a boolean mask; got dtype {leaf.dtype}. For indices "
                    "use `lsqflow.Selection`, for weights `lsqflow.Diagonal`."
                )
        if jax.tree.structure(dtype) != jax.tree.structure(self.mask):
            dtype = jax.tree.map(lambda _: dtype, self.mask)
        structure = jax.tree.map(
            lambda m, d: jax.ShapeDtypeStruct(m.shape, jnp.result_type(d)),
            self.mask,
            dtype,
        )
        tree.require_inexact(structure, "`Mask`")
        self.structure = tree.StaticStructure(structure)

    def mv(self, vector: Vector) -> Vector:
        return jax.tree.map(
            lambda m, x: jnp.where(m, x, jnp.zeros_like(x)), self.mask, vector
        )

    def rmv(self, vector: Vector) -> Vector:
        return self.mv(vector)

    def in_structure(self) -> Structure:
        return self.structure.tree

    def transpose(self) -> AbstractOperator:
        return self

    def conj(self) -> AbstractOperator:
        return self

    def linearise(self) -> AbstractOperator:
        return self

    def tags(self) -> frozenset[object]:
        return DIAGONAL_TAGS | {lx.positive_semidefinite_tag}


class Selection(AbstractRearrangement):
    r"""`A x = x[indices]`: rows of an array, or slices along another axis.

    Indices may repeat; the transposed product adds.

    **Cost:** a gather, and a scatter for the transposed product.
    """

    indices: Int[Array, " rows"]
    structure: tree.StaticStructure = eqx.field(static=True)
    axis: int = eqx.field(static=True)

    def __init__(self, indices: Any, structure: Any, axis: int = 0) -> None:
        """**Arguments:**

        - `indices`: integers; negative ones count from the end. Or a boolean array of
            the length of the axis, not traced.
        - `structure`: an array, or a `jax.ShapeDtypeStruct`.
        - `axis`: the axis of the array that the indices count along.

        **Raises:** `TypeError` unless the indices are integers or booleans, and
        `IndexError` if one is out of range.
        """
        structure, self.axis = _one_array(structure, axis, "`Selection`")
        self.structure = tree.StaticStructure(structure)
        size = structure.shape[self.axis]
        if not isinstance(indices, jax.Array):
            indices = np.asarray(indices)
        if indices.dtype == np.bool_ and indices.shape == (size,):
            indices = np.flatnonzero(np.asarray(indices))
        self.indices = _indices(indices, size, "`Selection`")

    def mv(self, vector: Array) -> Array:
        return jnp.take(vector, self.indices, self.axis, mode="clip")


class LeafSelection(AbstractRearrangement):
    """Some leaves of a pytree; `None` in place of the others.

    ```python
    first_layer = lf.LeafSelection({"first": True, "second": False}, parameters)
    ```
    """

    jax_transposes_well = True

    keep: tree.StaticStructure = eqx.field(static=True)
    structure: tree.StaticStructure = eqx.field(static=True)

    def __init__(self, keep: PyTree[bool], structure: Any) -> None:
        """**Arguments:**

        - `keep`: a pytree of booleans, with the structure of the vectors or of their
            upper levels.
        - `structure`: a vector, or a pytree of `jax.ShapeDtypeStruct`.
        """
        self.keep = tree.StaticStructure(keep)
        self.structure = tree.StaticStructure(tree.structure(structure))
        tree.require_inexact(self.structure.tree, "`LeafSelection`")

    def mv(self, vector: Vector) -> Vector:
        return eqx.filter(vector, self.keep.tree)

    def rmv(self, vector: Vector) -> Vector:
        rest = eqx.filter(self.structure.tree, self.keep.tree, inverse=True)
        zeros = vary(tree.zeros(rest), manual_axes(vector))
        return eqx.combine(vector, zeros)


class Permutation(AbstractRearrangement):
    """`A x = x[permutation]`: rows of an array in another order; `Aᵀ = A⁻¹`.

    **Cost:** a gather, in both directions.
    """

    may_call_back = False

    permutation: Int[Array, " size"]
    inverse: Int[Array, " size"] = eqx.field(repr=False)
    structure: tree.StaticStructure = eqx.field(static=True)
    axis: int = eqx.field(static=True)

    def __init__(self, permutation: Any, structure: Any = None, axis: int = 0) -> None:
        """**Arguments:**

        - `permutation`: the numbers 0, 1, …, n − 1 in any order.
        - `structure`: an array, or a `jax.ShapeDtypeStruct`; by default of shape `(n,)`
            and of JAX's floating-point dtype.
        - `axis`: the axis of the array whose entries change places.

        **Raises:** `ValueError` unless it is a permutation, of the length of the axis.
        """
        if not isinstance(permutation, jax.Array):
            permutation = np.asarray(permutation)
        if structure is None:
            dtype = jnp.result_type(float)
            structure = jax.ShapeDtypeStruct(permutation.shape, dtype)
        structure, self.axis = _one_array(structure, axis, "`Permutation`")
        self.structure = tree.StaticStructure(structure)
        size = structure.shape[self.axis]
        self.permutation = _indices(permutation, size, "`Permutation`")
        values = known(self.permutation)
        complete = values is None or np.array_equal(np.sort(values), np.arange(size))
        if self.permutation.shape != (size,) or not complete:
            raise ValueError(
                f"`Permutation` needs each of 0, …, {size - 1} once, for axis "
                f"{self.axis} of {brief(structure)}; got {brief(self.permutation)}."
            )
        self.inverse = jnp.argsort(self.permutation)

    def mv(self, vector: Array) -> Array:
        return jnp.take(vector, self.permutation, self.axis, mode="clip")

    def rmv(self, vector: Array) -> Array:
        return jnp.take(vector, self.inverse, self.axis, mode="clip")

    def out_structure(self) -> Structure:
        return self.structure.tree

    def transpose(self) -> AbstractOperator:
        return Permutation(self.inverse, self.in_structure(), self.axis)


def _one_array(structure: Any, axis: int, owner: str) -> tuple[Any, int]:
    structure = tree.structure(structure)
    if not isinstance(structure, jax.ShapeDtypeStruct) or not structure.shape:
        raise TypeError(
            f"{owner} acts on one array of at least one dimension; got the structure "
            f"{brief(structure)}. For leaves of a pytree use `lsqflow.LeafSelection`."
        )
    tree.require_inexact(structure, owner)
    if not -structure.ndim <= axis < structure.ndim:
        raise ValueError(f"{owner}: there is no axis {axis} in {brief(structure)}.")
    return structure, axis % structure.ndim


def _indices(indices: Any, size: int, owner: str) -> Int[Array, " rows"]:
    """Non-negative indices; checked where they are known."""
    if indices.ndim != 1 or not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(
            f"{owner} needs a one-dimensional array of integers; got "
            f"{brief(jax.ShapeDtypeStruct(indices.shape, indices.dtype))}."
        )
    values = known(indices)
    if (
        values is not None
        and values.size
        and not -size <= values.min() <= values.max() < size
    ):
        raise IndexError(
            f"{owner}: indices must be from {-size} to {size - 1}; got "
            f"{values.min()} to {values.max()}."
        )
    indices = jnp.asarray(indices)
    return jnp.where(indices < 0, indices + size, indices)
