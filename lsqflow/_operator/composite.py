"""Operators made of operators."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .. import _tree as tree
from .._tree import Structure
from .base import AbstractOperator


class AbstractComposite(AbstractOperator):
    """An operator whose fields are operators, and scalars or arrays beside them.

    It is linearised and conjugated part by part, so that each part does what it does
    best: keeps its own transposed product, or refuses to hoist anything.
    """

    jax_transposes_well = True

    def linearise(self) -> AbstractOperator:
        return self._map_parts(lambda part: part.linearise())

    def conj(self) -> AbstractOperator:
        if not tree.is_complex((self.in_structure(), self.out_structure())):
            return self
        return self._map_parts(lambda part: part.conj(), jnp.conj)

    def _map_parts(
        self,
        function: Callable[[AbstractOperator], AbstractOperator],
        on_arrays: Callable[[Any], Any] = lambda x: x,
    ) -> Any:
        def leaf(x: Any) -> Any:
            return function(x) if isinstance(x, AbstractOperator) else on_arrays(x)

        return jax.tree.map(
            leaf, self, is_leaf=lambda x: x is not self and is_operator(x)
        )


def is_operator(x: Any) -> bool:
    """Whether `x` is one of our operators: the leaves of a container of operators."""
    return isinstance(x, AbstractOperator)


def same_structure(got: Structure, expected: Structure) -> bool:
    """Whether two structures agree in containers, shapes and dtypes."""
    return tree.StaticStructure(tree.structure(got)) == tree.StaticStructure(
        tree.structure(expected)
    )


def total(vectors: list[Any]) -> Any:
    """The sum of one or more vectors."""
    first, *rest = vectors
    for vector in rest:
        first = tree.add(first, vector)
    return first
