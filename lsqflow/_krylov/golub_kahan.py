r"""Golub–Kahan bidiagonalization, written once, for every solver.

With $U_k = [u_1 \ldots u_k]$ and $V_k = [v_1 \ldots v_k]$ orthonormal and $B_k$ lower
bidiagonal with diagonal $\alpha_i$ and subdiagonal $\beta_{i+1}$,

$$ A V_k = U_{k+1} B_k, \qquad A^H U_{k+1} = V_k B_k^H + \alpha_{k+1} v_{k+1} e_{k+1}^T,
\qquad \beta_1 u_1 = b. $$

Beside each $v_k$ runs CRAIG's vector $q_k$ with $A^H q_k = v_k$,

$$ q_1 = u_1 / \alpha_1, \qquad q_{k+1} = (u_{k+1} - \beta_{k+1} q_k) / \alpha_{k+1}. $$

Any recurrence that combines the $v_k$ linearly into $x$ combines the $q_k$ into the
dual $y$ with $A^H y = x$. So a recurrence sees *pairs* $(v_k, q_k)$, each one pytree,
and never looks inside.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Float

from .. import _tree as tree
from .._tree import Vector

Scalar = Float[Array, ""]


@runtime_checkable
class LinearPair(Protocol):
    """A linear map with its adjoint."""

    def mv(self, vector: Vector, /) -> Vector:
        """`A v`."""
        ...

    def adjoint_mv(self, vector: Vector, /) -> Vector:
        """`Aᴴ u`."""
        ...


class Pair(NamedTuple):
    """A vector `v` of the input space and `q` of the output space, with `Aᴴ q = v`."""

    v: Vector
    q: Vector


class GolubKahan(eqx.Module):
    """The process after `k` steps."""

    u: Vector
    pair: Pair
    alpha: Scalar
    beta: Scalar

    @classmethod
    def start(cls, operator: LinearPair, vector: Vector) -> "GolubKahan":
        """`β₁ u₁ = b`, `α₁ v₁ = Aᴴ u₁`."""
        beta, inverse = tree.norm_and_inverse(vector)
        u = tree.scale(inverse, vector)
        v = operator.adjoint_mv(u)
        alpha, inverse = tree.norm_and_inverse(v)
        return cls(u, Pair(tree.scale(inverse, v), tree.scale(inverse, u)), alpha, beta)

    def step(self, operator: LinearPair) -> "GolubKahan":
        """One step: a product with the operator, one with its adjoint."""
        u = tree.axpy(-self.alpha, self.u, operator.mv(self.pair.v))
        beta, inverse = tree.norm_and_inverse(u)
        u = tree.scale(inverse, u)
        v = tree.axpy(-beta, self.pair.v, operator.adjoint_mv(u))
        alpha, inverse = tree.norm_and_inverse(v)
        q = tree.scale(inverse, tree.axpy(-beta, self.pair.q, u))
        return GolubKahan(u, Pair(tree.scale(inverse, v), q), alpha, beta)
