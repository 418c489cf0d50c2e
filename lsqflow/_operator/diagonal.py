"""Identity, zero and diagonal operators: what the algebra simplifies by."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Inexact, PyTree

from .. import _tree as tree
from .._jax import manual_axes, vary
from .._tree import Structure, Vector
from .base import AbstractOperator
from .structure.rearrangement import AbstractRearrangement

DIAGONAL_TAGS = frozenset({lx.symmetric_tag, lx.diagonal_tag, lx.tridiagonal_tag}) | {
    lx.lower_triangular_tag,
    lx.upper_triangular_tag,
}


class Identity(AbstractRearrangement):
    """`A x = x`, for vectors of any structure."""

    jax_transposes_well = True

    structure: tree.StaticStructure = eqx.field(static=True)

    def __init__(self, structure: Any) -> None:
        """**Arguments:**

        - `structure`: a vector, or a pytree of `jax.ShapeDtypeStruct`.
        """
        self.structure = _static(structure, "`Identity`")

    def mv(self, vector: Vector) -> Vector:
        return vector

    def rmv(self, vector: Vector) -> Vector:
        return vector

    def transpose(self) -> AbstractOperator:
        return self

    def tags(self) -> frozenset[object]:
        return DIAGONAL_TAGS | {lx.unit_diagonal_tag, lx.positive_semidefinite_tag}


class Zero(AbstractOperator):
    """`A x = 0`, between vectors of any two structures."""

    jax_transposes_well = True

    structures: tree.StaticStructure = eqx.field(static=True)

    def __init__(self, in_structure: Any, out_structure: Any | None = None) -> None:
        """**Arguments:**

        - `in_structure`: a vector, or a pytree of `jax.ShapeDtypeStruct`.
        - `out_structure`: the same for the result; by default as `in_structure`.
        """
        out_structure = in_structure if out_structure is None else out_structure
        self.structures = _static((in_structure, out_structure), "`Zero`")

    def mv(self, vector: Vector) -> Vector:
        return self._zeros(vector, self.out_structure())

    def rmv(self, vector: Vector) -> Vector:
        return self._zeros(vector, self.in_structure())

    def _zeros(self, vector: Vector, structure: Structure) -> Vector:
        return vary(tree.zeros(structure), manual_axes(vector))

    def in_structure(self) -> Structure:
        return self.structures.tree[0]

    def out_structure(self) -> Structure:
        return self.structures.tree[1]

    def transpose(self) -> AbstractOperator:
        return Zero(self.out_structure(), self.in_structure())

    def conj(self) -> AbstractOperator:
        return self

    def linearise(self) -> AbstractOperator:
        return self


class Diagonal(AbstractOperator):
    """`(A x)ᵢ = dᵢ xᵢ`: the entries times the vector, leaf by leaf.

    **Cost:** one multiplication an entry.
    """

    jax_transposes_well = True

    entries: PyTree[Inexact[Array, "..."]]

    def __init__(self, entries: PyTree[Any]) -> None:
        """**Arguments:**

        - `entries`: a pytree of arrays; vectors have its structure.

        **Raises:** `TypeError` unless the entries are real or complex floating point.
        """
        self.entries = jax.tree.map(jnp.asarray, entries)
        tree.require_inexact(self.entries, "`Diagonal`")

    def mv(self, vector: Vector) -> Vector:
        return jax.tree.map(jnp.multiply, self.entries, vector)

    def rmv(self, vector: Vector) -> Vector:
        return self.mv(vector)

    def in_structure(self) -> Structure:
        return tree.structure(self.entries)

    def out_structure(self) -> Structure:
        return self.in_structure()

    def transpose(self) -> AbstractOperator:
        return self

    def conj(self) -> AbstractOperator:
        return Diagonal(tree.conj(self.entries))

    def linearise(self) -> AbstractOperator:
        return self

    def as_matrix(self) -> Inexact[Array, "rows columns"]:
        entries = [jnp.ravel(x) for x in jax.tree.leaves(self.entries)]
        return jnp.diag(jnp.concatenate(entries))

    def tags(self) -> frozenset[object]:
        return DIAGONAL_TAGS


def _static(structure: Any, owner: str) -> tree.StaticStructure:
    structure = tree.structure(structure)
    tree.require_inexact(structure, owner)
    return tree.StaticStructure(structure)
