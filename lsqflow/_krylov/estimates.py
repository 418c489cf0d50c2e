"""Running estimates of ‖A‖ and cond(A), and what a recurrence reports of itself."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _tree as tree

Scalar = Float[Array, ""]


class Estimates(eqx.Module):
    """What a recurrence knows of its iterate without looking at it.

    Residuals are those of the damped problem: ‖(b − A x, −λ x)‖ and ‖Aᴴ r − λ² x‖.
    """

    residual_norm: Scalar
    normal_residual_norm: Scalar
    operator_norm: Scalar
    condition: Scalar


class Spectrum(eqx.Module):
    """‖A‖ (Frobenius) and cond(A) from the bidiagonal and from R̄; Fong–Saunders §3.

    Both grow towards the true values as the process sees more of the operator.
    """

    norm_squared: Scalar
    largest: Scalar
    smallest: Scalar
    norm: Scalar
    condition: Scalar

    @classmethod
    def start(cls, alpha: Scalar) -> "Spectrum":
        """Before the first step."""
        zero, infinity = jnp.zeros_like(alpha), jnp.full_like(alpha, jnp.inf)
        return cls(alpha * alpha, zero, infinity, alpha, jnp.ones_like(alpha))

    def update(
        self, alpha: Scalar, beta: Scalar, rhobar: Scalar, rhotemp: Scalar
    ) -> "Spectrum":
        """From `α_{k+1}`, `β_{k+1}`, the last finished R̄ entry and the current one."""
        first = self.largest == 0  # the entry before the first one is a placeholder
        smallest = jnp.where(first, self.smallest, jnp.minimum(self.smallest, rhobar))
        largest = jnp.maximum(self.largest, rhobar)
        norm_squared = self.norm_squared + beta * beta
        return Spectrum(
            norm_squared=norm_squared + alpha * alpha,
            largest=largest,
            smallest=smallest,
            norm=tree.safe_sqrt(norm_squared),
            condition=jnp.maximum(largest, rhotemp)
            * tree.safe_reciprocal(jnp.minimum(smallest, rhotemp)),
        )
