"""Part of the parameters, as a linear map of them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._problem.inputs import conform
from .._tree import Structure, Vector


class Part(AbstractOperator):
    """What a function picks from a pytree; its transpose puts it back among zeros."""

    where: Callable[[Any], Any] = eqx.field(static=True)
    structure: tree.StaticStructure = eqx.field(static=True)

    def __init__(self, where: Callable[[Any], Any], params: Any) -> None:
        self.where = where
        self.structure = tree.StaticStructure(tree.structure(params))

    def mv(self, vector: Vector) -> Vector:
        return self.where(vector)

    def in_structure(self) -> Structure:
        return self.structure.tree

    def linearise(self) -> AbstractOperator:
        return self

    def embed(self, part: PyTree[Array], name: str) -> Vector:
        """Values for the part, among zeros; an error if they do not fit."""
        return self.rmv(conform(part, self.out_structure(), name, "part"))

    def embed_mask(self, mask: PyTree[Array]) -> PyTree[Array]:
        """A mask of the part, as a mask of the whole."""
        numbers = jax.tree.map(
            lambda m, s: m.astype(s.dtype), mask, self.out_structure()
        )
        return jax.tree.map(lambda x: x != 0, self.rmv(numbers))
