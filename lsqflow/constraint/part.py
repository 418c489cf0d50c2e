"""Part of the parameters, as a linear map of them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from .. import _tree as tree
from .._jax import reshard_as, sharded_structure
from .._operator.base import AbstractOperator
from .._problem.inputs import conform
from .._tree import Structure, Vector


class Part(AbstractOperator):
    """What a function picks from a pytree. The transpose puts it back among zeros."""

    where: Callable[[Any], Any] = eqx.field(static=True)
    structure: tree.StaticStructure = eqx.field(static=True)
    sharded: tree.StaticStructure = eqx.field(static=True)

    def __init__(self, where: Callable[[Any], Any], params: Any) -> None:
        """**Arguments:**

        - `where`: a linear function that picks the part.
        - `params`: the whole, or its structure. Its values are not used.
        """
        self.where = where
        self.structure = tree.StaticStructure(tree.structure(params))
        self.sharded = tree.StaticStructure(jax.tree.map(sharded_structure, params))

    def mv(self, vector: Vector) -> Vector:
        return self.where(vector)

    def rmv(self, vector: PyTree[Array]) -> Vector:
        # As the base class does, with the shardings of an explicit mesh.
        whole = self.sharded.tree
        part = jax.eval_shape(self.where, whole)
        vector = jax.tree.map(reshard_as, vector, part)
        try:
            (out,) = jax.linear_transpose(self.where, whole)(vector)
        except NotImplementedError as error:
            raise ValueError(
                "`where` must pick a part of the parameters, or be another linear "
                f"function of them. This one is not linear: {error}"
            ) from error
        return out

    def in_structure(self) -> Structure:
        return self.structure.tree

    def linearise(self) -> AbstractOperator:
        return self

    def embed(self, part: PyTree[Array], name: str) -> Vector:
        """Values of the part, among zeros. Raises an error if they do not fit."""
        return self.rmv(conform(part, self.out_structure(), name, "part"))

    def embed_mask(self, mask: PyTree[Array]) -> PyTree[Array]:
        """A mask of the whole, from a mask of the part."""
        numbers = jax.tree.map(
            lambda m, s: m.astype(s.dtype), mask, self.out_structure()
        )
        return jax.tree.map(lambda x: x != 0, self.rmv(numbers))
