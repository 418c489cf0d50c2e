r"""The problem: everything else restates it, solves it or differentiates it."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._tree import Vector

Scalar = Float[Array, ""]


class Problem(eqx.Module):
    r"""A least-squares problem: minimize $\|A x - b\|^2 + \lambda^2 \|x\|^2$.

    Solvers get one. Users do not make one to solve it: they call [`lsqflow.lstsq`][].
    Methods that need the residual take it where the caller has it, to save a product.

    **Attributes:**

    - `operator`: $A$, an [`lsqflow.AbstractOperator`][].
    - `vector`: $b$, a pytree of arrays.
    - `damp`: λ, a real scalar array; `None` if there is no damping.
    """

    operator: AbstractOperator
    vector: Vector
    damp: Scalar | None = None

    def residual(self, x: Vector) -> Vector:
        """`b − A x`."""
        return tree.sub(self.vector, self.operator.mv(x))

    def gradient(self, x: Vector, residual: Vector | None = None) -> Vector:
        """`Aᴴ (A x − b) + λ² x`: half the gradient of the objective."""
        residual = self.residual(x) if residual is None else residual
        gradient = tree.neg(self.operator.adjoint_mv(residual))
        if self.damp is None:
            return gradient
        return tree.axpy(self.damp * self.damp, x, gradient)

    def residual_norm(self, x: Vector, residual: Vector | None = None) -> Scalar:
        """‖(b − A x, λ x)‖: the root of the objective, computed without squaring it."""
        norm = tree.norm(self.residual(x) if residual is None else residual)
        if self.damp is None:
            return norm
        return jnp.hypot(norm, self.damp * tree.norm(x))

    def objective(self, x: Vector, residual: Vector | None = None) -> Scalar:
        """`‖A x − b‖² + λ² ‖x‖²`."""
        residual = self.residual(x) if residual is None else residual
        value = tree.inner(residual, residual)
        if self.damp is None:
            return value
        return value + self.damp * self.damp * tree.inner(x, x)

    def rounding(self, x: Vector, operator_norm: Scalar) -> Scalar:
        """The rounding error of a computed residual: `ε (‖A‖ ‖x‖ + ‖b‖)`.

        That of a computed gradient is ‖A‖ times as large.
        """
        return self.eps * (operator_norm * tree.norm(x) + tree.norm(self.vector))

    @property
    def eps(self) -> float:
        """The unit of rounding of the coarsest array of the problem."""
        ends = (self.vector, self.operator.in_structure())
        return float(jnp.finfo(tree.storage_dtype(ends)).eps)

    def curvature(self, step: Vector) -> Scalar:
        """`‖A s‖² + λ² ‖s‖²`: how much a step from the minimum raises the objective."""
        image = self.operator.mv(step)
        value = tree.inner(image, image)
        if self.damp is None:
            return value
        return value + self.damp * self.damp * tree.inner(step, step)

    def linearise(self) -> "Problem":
        """The same problem, with the work done that does not depend on `x`."""
        return Problem(self.operator.linearise(), self.vector, self.damp)
