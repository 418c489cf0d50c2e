"""A direct solver for a diagonal plus a low rank."""

from typing import Any

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from .._operator.matrix import matmul
from .._operator.structure.low_rank import DiagonalPlusLowRank


class Woodbury(lx.AbstractLinearSolver):
    r"""Woodbury's formula, for an invertible [`lsqflow.DiagonalPlusLowRank`][].

    $(D + U V^H)^{-1} b = D^{-1} b - D^{-1} U (I + V^H D^{-1} U)^{-1} V^H D^{-1} b$

    **Use when** the diagonal and the sum are invertible.
    **Avoid when** the diagonal is badly conditioned: the formula loses as many digits
    as the condition number of the diagonal has. Also with damping, which is refused.

    **Cost:** $k^2 n$ multiplications and a factorization of size $k$, for rank $k$.

    **Raises:** `TypeError` for any other operator, and with damping.

    ??? cite "Reference"

        ```bibtex
        @techreport{woodbury1950,
            author={Woodbury, Max A.},
            title={Inverting modified matrices},
            institution={Statistical Research Group, Princeton University},
            number={42},
            year={1950},
        }
        ```
    """

    def init(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> DiagonalPlusLowRank:
        if not isinstance(operator, DiagonalPlusLowRank):
            raise TypeError(
                "`Woodbury` solves with a `lsqflow.DiagonalPlusLowRank`, undamped; got "
                f"{type(operator).__name__}."
            )
        return operator

    def compute(
        self,
        state: DiagonalPlusLowRank,
        vector: PyTree[Array],
        options: dict[str, Any],
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        entries, left = state.diagonal.entries, state.low_rank.left
        right = left if state.low_rank.right is None else state.low_rank.right
        right = right.conj().T
        scaled = left / entries[:, None]
        capacitance = jnp.eye(left.shape[1], dtype=left.dtype) + matmul(right, scaled)
        x = vector / entries
        x -= matmul(scaled, jnp.linalg.solve(capacitance, matmul(right, x)))
        finite = jnp.all(jnp.isfinite(x))
        result = lx.RESULTS.where(finite, lx.RESULTS.successful, lx.RESULTS.singular)
        return x, result, {}

    def transpose(
        self, state: DiagonalPlusLowRank, options: dict[str, Any]
    ) -> tuple[DiagonalPlusLowRank, dict[str, Any]]:
        return state.transpose(), options

    def conj(
        self, state: DiagonalPlusLowRank, options: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        return state.conj(), options

    def assume_full_rank(self) -> bool:
        return True
