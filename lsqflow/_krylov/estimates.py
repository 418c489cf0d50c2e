"""Running estimates of ‖A‖, ‖A⁺‖ and cond(A), and what a recurrence reports."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _tree as tree

Scalar = Float[Array, ""]


class Estimates(eqx.Module):
    """What a recurrence knows of its iterate without computing it.

    Residuals are those of the damped problem: ‖(b − A x, −λ x)‖ and ‖Aᴴ r − λ² x‖.
    """

    residual_norm: Scalar
    normal_residual_norm: Scalar
    operator_norm: Scalar
    largest: Scalar
    smallest: Scalar
    inverse_norm: Scalar

    @property
    def condition(self) -> Scalar:
        """The estimate of cond(A)."""
        return self.largest * tree.safe_reciprocal(self.smallest)


class Spectrum(eqx.Module):
    """‖A‖ (Frobenius), cond(A) and ‖A⁺‖ from scalars of the recurrences.

    The first two are those of Fong and Saunders (2011), §3: from the bidiagonal, and
    the ratio of extreme entries of R̄. The third is a bound from below, max ‖d_k‖, where
    `A d_k` is a unit vector: `D = V R⁻¹` has columns `d_k = h_k / ρ_k`, and
    `‖h_{k+1}‖² = 1 + (θ_{k+1} / ρ_k)² ‖h_k‖²`. All grow as the process sees more of the
    operator. The current step, which may be a breakdown, counts in none of the minima.
    """

    norm_squared: Scalar
    norm: Scalar
    finished: tuple[Scalar, Scalar]
    largest: Scalar
    smallest: Scalar
    h_squared: Scalar
    d_squared: Scalar
    inverse_norm_squared: Scalar

    @classmethod
    def start(cls, alpha: Scalar) -> "Spectrum":
        """Before the first step."""
        zero, one = jnp.zeros_like(alpha), jnp.ones_like(alpha)
        nothing = (zero, jnp.full_like(alpha, jnp.inf))
        return cls(alpha * alpha, alpha, nothing, alpha, alpha, one, zero, zero)

    def update(
        self,
        bidiagonal: tuple[Scalar, Scalar],
        upper: tuple[Scalar, Scalar],
        rhobar: Scalar,
        rhotemp: Scalar,
    ) -> "Spectrum":
        """From `α_{k+1}, β_{k+1}`; `1/ρ_k, θ_{k+1}`; R̄'s last and current entry."""
        (alpha, beta), (inverse, theta) = bidiagonal, upper
        largest, smallest = self.finished
        # R̄'s entry before the first is a placeholder; SciPy counts it, and so reports
        # a condition of 1 / ‖A‖ for small operators.
        first = self.d_squared == 0
        smallest = jnp.where(first, smallest, jnp.minimum(smallest, rhobar))
        largest = jnp.where(first, largest, jnp.maximum(largest, rhobar))
        norm_squared = self.norm_squared + beta * beta
        return Spectrum(
            norm_squared=norm_squared + alpha * alpha,
            norm=tree.safe_sqrt(norm_squared),
            finished=(largest, smallest),
            largest=jnp.maximum(largest, rhotemp),
            smallest=jnp.minimum(smallest, rhotemp),
            h_squared=1 + (theta * inverse) ** 2 * self.h_squared,
            d_squared=self.h_squared * inverse * inverse,
            inverse_norm_squared=jnp.maximum(self.inverse_norm_squared, self.d_squared),
        )
