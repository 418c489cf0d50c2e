"""LSQR: conjugate gradients on the normal equations, through Golub–Kahan."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import _tree as tree
from .._krylov.estimates import Estimates, Spectrum
from .._krylov.givens import givens, undamp
from .._krylov.golub_kahan import Pair
from .arguments import ARGUMENTS
from .golub_kahan import AbstractGolubKahanSolver

Scalar = Float[Array, ""]


class _Scalars(eqx.Module):
    # Names as in Paige and Saunders (1982), §4 and §5; R̄ as in LSMR, for cond(A).
    rhoflat: Scalar
    phiflat: Scalar
    damped_part: Scalar
    residual_norm: Scalar
    normal_residual_norm: Scalar
    rhobar: Scalar
    cbar: Scalar
    sbar: Scalar
    spectrum: Spectrum


class _Vectors(eqx.Module):
    iterate: Pair
    w: Pair


class LSQR(AbstractGolubKahanSolver):
    r"""Minimizes $\|Ax - b\|^2 + \lambda^2 \|x\|^2$; ‖r‖ decreases monotonically.

    **Use when** the system is consistent, or the residual itself is what matters, or
    iterates must match those of conjugate gradients on the normal equations.
    **Avoid when** an inconsistent system is stopped early: ‖Aᴴr‖ oscillates. Use LSMR.
    **Cost per step:** one product with `A`, one with `Aᴴ`. It stores 3 vectors of the
    input space and 1 of the output space. Where the dual is used, and for gradients, it
    stores 3 more of the output space.
    **Handles:** any shape and rank, real and complex, damping at no cost.

    ??? cite "Reference"
        ```bibtex
        @article{paige1982lsqr,
            author={Paige, Christopher C. and Saunders, Michael A.},
            title={{LSQR}: An algorithm for sparse linear equations and sparse
                least squares},
            journal={ACM Transactions on Mathematical Software},
            volume={8}, number={1}, pages={43--71}, year={1982},
        }
        ```
    """

    rtol: float | Float[Array, ""] | None = None
    atol: float | Float[Array, ""] = 0.0
    max_steps: int | Int[Array, ""] | None = None
    conlim: float | Float[Array, ""] | None = None
    history: int = eqx.field(static=True, default=0)

    def first_scalars(self, alpha: Scalar, beta: Scalar) -> _Scalars:
        zero, one = jnp.zeros_like(alpha), jnp.ones_like(alpha)
        return _Scalars(
            rhoflat=alpha,
            phiflat=beta,
            damped_part=zero,
            residual_norm=beta,
            normal_residual_norm=alpha * beta,
            rhobar=one,
            cbar=one,
            sbar=zero,
            spectrum=Spectrum.start(alpha),
        )

    def first_vectors(self, pair: Pair) -> _Vectors:
        return _Vectors(iterate=tree.zeros_like(pair), w=pair)

    def advance(
        self, old: _Scalars, alpha: Scalar, beta: Scalar, damp: Scalar | None
    ) -> tuple[_Scalars, tuple[Scalar, ...]]:
        # Rotations: damping out (hat), B to R.
        phihat, psi, rhohat = undamp(old.phiflat, old.rhoflat, damp)
        c, s, rho, inverse = givens(rhohat, beta)
        theta = s * alpha
        phi = c * phihat
        phiflat = s * phihat
        damped_part = old.damped_part + psi * psi
        rhotemp = old.cbar * rho
        cbar, sbar, rhobar, _ = givens(rhotemp, theta)
        new = _Scalars(
            rhoflat=-c * alpha,
            phiflat=phiflat,
            damped_part=damped_part,
            residual_norm=tree.safe_sqrt(phiflat * phiflat + damped_part),
            normal_residual_norm=alpha * jnp.abs(s * phi),
            rhobar=rhobar,
            cbar=cbar,
            sbar=sbar,
            spectrum=old.spectrum.update(
                (alpha, beta), (inverse, theta), old.rhobar, rhotemp
            ),
        )
        return new, (phi * inverse, -theta * inverse)

    def combine(
        self, old: _Vectors, coefficients: tuple[Scalar, ...], pair: Pair
    ) -> _Vectors:
        to_iterate, to_w = coefficients
        return _Vectors(
            iterate=tree.axpy(to_iterate, old.w, old.iterate),
            w=tree.axpy(to_w, old.w, pair),
        )

    def estimates(self, scalars: _Scalars) -> Estimates:
        return Estimates(
            residual_norm=scalars.residual_norm,
            normal_residual_norm=scalars.normal_residual_norm,
            operator_norm=scalars.spectrum.norm,
            largest=scalars.spectrum.largest,
            smallest=scalars.spectrum.smallest,
            inverse_norm=tree.safe_sqrt(scalars.spectrum.inverse_norm_squared),
        )


LSQR.__init__.__doc__ = ARGUMENTS
