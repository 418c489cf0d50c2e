"""Operators between forms of one vector: shapes, pytrees, real and complex numbers."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from ... import _tree as tree
from ..._tree import Vector
from ..base import AbstractOperator
from ..display import brief
from .rearrangement import AbstractRearrangement


class Reshape(AbstractRearrangement):
    """An array in another shape, with its entries in the same (row-major) order."""

    jax_transposes_well = True

    structure: tree.StaticStructure = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, structure: Any, shape: tuple[int, ...]) -> None:
        """**Arguments:**

        - `structure`: an array, or a `jax.ShapeDtypeStruct`.
        - `shape`: the shape of the result.

        **Raises:** `ValueError` if the two differ in size.
        """
        structure = tree.structure(structure)
        tree.require_inexact(structure, "`Reshape`")
        if not isinstance(structure, jax.ShapeDtypeStruct):
            raise TypeError(
                f"`Reshape` acts on one array; got the structure {brief(structure)}. "
                "For pytrees use `lsqflow.Ravel`."
            )
        if structure.size != math.prod(shape):
            raise ValueError(
                f"`Reshape` cannot make shape {shape} of {brief(structure)}."
            )
        self.structure, self.shape = tree.StaticStructure(structure), tuple(shape)

    def mv(self, vector: Array) -> Array:
        return vector.reshape(self.shape)

    def rmv(self, vector: Array) -> Array:
        return vector.reshape(self.structure.tree.shape)

    def transpose(self) -> AbstractOperator:
        return Reshape(self.out_structure(), self.structure.tree.shape)


class Ravel(AbstractRearrangement):
    """All entries of a pytree in one array of shape `(size,)`, leaf after leaf.

    Its transpose makes the pytree again: `lf.Ravel(a) @ A @ lf.Ravel(b).T` acts
    between flat vectors, for an `A` from `b` to `a`.
    """

    jax_transposes_well = True

    structure: tree.StaticStructure = eqx.field(static=True)

    def __init__(self, structure: Any) -> None:
        """**Arguments:**

        - `structure`: a vector, or a pytree of `jax.ShapeDtypeStruct`.

        **Raises:** `TypeError` unless all leaves have one floating-point dtype.
        """
        structure = tree.structure(structure)
        tree.require_inexact(structure, "`Ravel`")
        dtypes = sorted({str(x.dtype) for x in jax.tree.leaves(structure)})
        if len(dtypes) != 1:
            raise TypeError(
                f"`Ravel` needs leaves of one dtype; got {', '.join(dtypes) or 'none'}."
            )
        self.structure = tree.StaticStructure(structure)

    def mv(self, vector: Vector) -> Inexact[Array, " size"]:
        return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(vector)])

    def rmv(self, vector: Inexact[Array, " size"]) -> Vector:
        leaves, treedef = jax.tree.flatten(self.structure.tree)
        ends = [sum(x.size for x in leaves[:i]) for i in range(1, len(leaves))]
        parts = jnp.split(vector, ends)
        return treedef.unflatten(
            [part.reshape(x.shape) for part, x in zip(parts, leaves, strict=True)]
        )


class Real(AbstractRearrangement):
    """The real part of a complex vector.

    Linear over the reals only: it has no matrix, and its transpose, like every one in
    JAX, is with respect to `Re(Σ xᵢ yᵢ)`. Solvers work as always; the unknowns are then
    real and imaginary parts.
    """

    structure: tree.StaticStructure = eqx.field(static=True)

    def __init__(self, structure: Any) -> None:
        """**Arguments:**

        - `structure`: a vector, or a pytree of `jax.ShapeDtypeStruct`, complex.

        **Raises:** `TypeError` unless it is complex.
        """
        self.structure = _complex(structure, "`Real`")

    def mv(self, vector: Vector) -> Vector:
        return jax.tree.map(jnp.real, vector)

    def as_matrix(self) -> Inexact[Array, "rows columns"]:
        raise _no_matrix(self)


class Imag(AbstractRearrangement):
    """The imaginary part of a complex vector; see [`lsqflow.Real`][]."""

    structure: tree.StaticStructure = eqx.field(static=True)

    def __init__(self, structure: Any) -> None:
        """**Arguments:**

        - `structure`: a vector, or a pytree of `jax.ShapeDtypeStruct`, complex.

        **Raises:** `TypeError` unless it is complex.
        """
        self.structure = _complex(structure, "`Imag`")

    def mv(self, vector: Vector) -> Vector:
        return jax.tree.map(jnp.imag, vector)

    def conj(self) -> AbstractOperator:
        return -self

    def as_matrix(self) -> Inexact[Array, "rows columns"]:
        raise _no_matrix(self)


def _complex(structure: Any, owner: str) -> tree.StaticStructure:
    structure = tree.structure(structure)
    for leaf in jax.tree.leaves(structure):
        if not jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise TypeError(f"{owner} needs complex vectors; got {brief(structure)}.")
    return tree.StaticStructure(structure)


def _no_matrix(operator: AbstractOperator) -> TypeError:
    return TypeError(
        f"`{type(operator).__name__}` is linear over the real numbers only, so it has "
        "no complex matrix."
    )
