"""Low-rank operators, alone and beside a diagonal."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Inexact

from ... import _tree as tree
from ..._tree import Structure
from ..base import AbstractOperator
from ..composite import AbstractComposite, same_structure
from ..diagonal import Diagonal
from ..display import brief
from ..matrix import matmul


class LowRank(AbstractOperator):
    r"""$U V^H$ for two tall matrices, or $U U^H$ for one.

    **Cost:** $k (m + n)$ multiplications a product, for rank $k$.
    """

    jax_transposes_well = True

    left: Inexact[Array, "rows rank"]
    right: Inexact[Array, "columns rank"] | None

    def __init__(self, left: Any, right: Any = None) -> None:
        """**Arguments:**

        - `left`: $U$, an array of shape `(rows, rank)`.
        - `right`: $V$, an array of shape `(columns, rank)`; by default $U$.

        **Raises:** `ValueError` unless both are matrices with equally many columns,
        `TypeError` unless they are floating point and of one dtype.
        """
        self.left = jnp.asarray(left)
        self.right = None if right is None else jnp.asarray(right)
        other = self._right()
        tree.require_inexact((self.left, other), "`LowRank`")
        if self.left.dtype != other.dtype:
            raise TypeError(
                f"`LowRank` needs matrices of one dtype; got {self.left.dtype} and "
                f"{other.dtype}."
            )
        if (
            not self.left.ndim == other.ndim == 2
            or self.left.shape[1] != other.shape[1]
        ):
            raise ValueError(
                "`LowRank` needs matrices with equally many columns (their rank); got "
                f"{brief(self.left)} and {brief(other)}."
            )

    def _right(self) -> Array:
        return self.left if self.right is None else self.right

    def mv(self, vector: Inexact[Array, " columns"]) -> Inexact[Array, " rows"]:
        inner = matmul(tree.conj(vector), self._right())
        return matmul(self.left, tree.conj(inner))

    def rmv(self, vector: Inexact[Array, " rows"]) -> Inexact[Array, " columns"]:
        inner = matmul(vector, self.left)
        return tree.conj(matmul(self._right(), tree.conj(inner)))

    def in_structure(self) -> Structure:
        other = self._right()
        return jax.ShapeDtypeStruct(other.shape[:1], other.dtype)

    def out_structure(self) -> Structure:
        return jax.ShapeDtypeStruct(self.left.shape[:1], self.left.dtype)

    def transpose(self) -> "LowRank":
        # (U Vᴴ)ᵀ = conj(V) conj(U)ᴴ
        if self.right is None:
            return LowRank(tree.conj(self.left))
        return LowRank(tree.conj(self.right), tree.conj(self.left))

    def conj(self) -> AbstractOperator:
        right = None if self.right is None else tree.conj(self.right)
        return LowRank(tree.conj(self.left), right)

    def linearise(self) -> AbstractOperator:
        return self

    def tags(self) -> frozenset[object]:
        if self.right is not None:
            return frozenset()
        real = not tree.is_complex(self.left)
        symmetric = {lx.symmetric_tag} if real else set()
        return frozenset({lx.positive_semidefinite_tag} | symmetric)


class DiagonalPlusLowRank(AbstractComposite):
    r"""$D + U V^H$, square; $D + U U^H$ if only $U$ is given.

    If $D$ and the operator are invertible, the solver [`lsqflow.Woodbury`][] solves
    with it directly.

    **Cost:** $(2k + 1) n$ multiplications a product, for rank $k$.
    """

    diagonal: Diagonal
    low_rank: LowRank

    def __init__(self, diagonal: Any, left: Any, right: Any = None) -> None:
        """**Arguments:**

        - `diagonal`: $D$, an array of shape `(n,)`.
        - `left`: $U$, an array of shape `(n, rank)`.
        - `right`: $V$, an array of shape `(n, rank)`; by default $U$.

        **Raises:** `ValueError` unless the shapes fit, `TypeError` unless the arrays
        are floating point and of one dtype.
        """
        self.diagonal, self.low_rank = Diagonal(diagonal), LowRank(left, right)
        ends = self.low_rank.in_structure(), self.low_rank.out_structure()
        if not all(same_structure(end, self.diagonal.in_structure()) for end in ends):
            raise ValueError(
                "`DiagonalPlusLowRank` needs a diagonal of shape (n,) and matrices of "
                f"shape (n, rank), of one dtype; got {brief(self.diagonal.entries)}, "
                f"{brief(self.low_rank.left)} and {brief(self.low_rank.right)}."
            )

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
        return self.diagonal.mv(vector) + self.low_rank.mv(vector)

    def rmv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
        return self.diagonal.rmv(vector) + self.low_rank.rmv(vector)

    def in_structure(self) -> Structure:
        return self.diagonal.in_structure()

    def transpose(self) -> "DiagonalPlusLowRank":
        transposed = self.low_rank.transpose()
        return DiagonalPlusLowRank(
            self.diagonal.entries, transposed.left, transposed.right
        )

    def tags(self) -> frozenset[object]:
        return self.low_rank.tags() & {lx.symmetric_tag}
