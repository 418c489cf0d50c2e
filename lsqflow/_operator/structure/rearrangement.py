"""What operators have in common that move entries and compute nothing."""

import equinox as eqx

from ... import _tree as tree
from ..._tree import Structure
from ..base import AbstractOperator


class AbstractRearrangement(AbstractOperator):
    """Real, without parameters to differentiate, and with nothing to precompute."""

    structure: eqx.AbstractVar[tree.StaticStructure]

    def in_structure(self) -> Structure:
        return self.structure.tree

    def conj(self) -> AbstractOperator:
        return self

    def linearise(self) -> AbstractOperator:
        return self
