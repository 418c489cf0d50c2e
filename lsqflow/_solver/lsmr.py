"""LSMR: MINRES on the normal equations, through Golub–Kahan."""

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
    # Names as in Fong and Saunders (2011), §2.8 and §3; `d` marks dots, `inverse` is
    # 1 / (ρ ρ̄).
    alphabar: Scalar
    inverse: Scalar
    rhobar: Scalar
    cbar: Scalar
    sbar: Scalar
    zeta: Scalar
    zetabar: Scalar
    betadd: Scalar
    betad: Scalar
    rhod: Scalar
    tautilde: Scalar
    thetatilde: Scalar
    damped_part: Scalar
    residual_norm: Scalar
    spectrum: Spectrum


class _Vectors(eqx.Module):
    iterate: Pair
    hbar: Pair
    h: Pair


class LSMR(AbstractGolubKahanSolver):
    r"""Minimizes $\|Ax - b\|^2 + \lambda^2 \|x\|^2$; ‖Aᴴr‖ decreases monotonically.

    **Use when** in doubt. The normal residual ‖Aᴴr‖, which tells how good a
    least-squares solution is, falls at every step, so it is safe to stop early.
    **Avoid when** the operator is a small matrix: a factorization is faster.
    **Cost per step:** one product with `A`, one with `Aᴴ`. It stores 4 vectors of the
    input space and 1 of the output space. Where the dual is used, and for gradients, it
    stores 4 more of the output space.
    **Handles:** any shape and rank, real and complex, damping at no cost.

    ??? cite "Reference"
        ```bibtex
        @article{fong2011lsmr,
            author={Fong, David Chin-Lung and Saunders, Michael},
            title={{LSMR}: An iterative algorithm for sparse least-squares problems},
            journal={SIAM Journal on Scientific Computing},
            volume={33}, number={5}, pages={2950--2971}, year={2011},
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
            alphabar=alpha,
            inverse=one,
            rhobar=one,
            cbar=one,
            sbar=zero,
            zeta=zero,
            zetabar=alpha * beta,
            betadd=beta,
            betad=zero,
            rhod=one,
            tautilde=zero,
            thetatilde=zero,
            damped_part=zero,
            residual_norm=beta,
            spectrum=Spectrum.start(alpha),
        )

    def first_vectors(self, pair: Pair) -> _Vectors:
        zero = tree.zeros_like(pair)
        return _Vectors(iterate=zero, hbar=zero, h=pair)

    def advance(
        self, old: _Scalars, alpha: Scalar, beta: Scalar, damp: Scalar | None
    ) -> tuple[_Scalars, tuple[Scalar, ...]]:
        # Rotations: damping out (hat), B to R (rho), Rᵀ to R̄ (bar).
        betaacute, betacheck, alphahat = undamp(old.betadd, old.alphabar, damp)
        c, s, rho, inverse = givens(alphahat, beta)
        theta = s * alpha
        thetabar = old.sbar * rho
        rhotemp = old.cbar * rho
        cbar, sbar, rhobar, inversebar = givens(rhotemp, theta)
        zeta = cbar * old.zetabar

        # ‖r‖, through the QR factorization of R̄ᵀ (tilde).
        betahat = c * betaacute
        betadd = -s * betaacute
        ctilde, stilde, _, inversetilde = givens(old.rhod, thetabar)
        thetatilde = stilde * rhobar
        rhod = ctilde * rhobar
        betad = ctilde * betahat - stilde * old.betad
        tautilde = (old.zeta - old.thetatilde * old.tautilde) * inversetilde
        taud = (zeta - thetatilde * tautilde) * tree.safe_reciprocal(rhod)
        damped_part = old.damped_part + betacheck * betacheck
        residual_norm = tree.safe_sqrt(
            damped_part + (betad - taud) ** 2 + betadd * betadd
        )

        new = _Scalars(
            alphabar=c * alpha,
            inverse=inverse * inversebar,
            rhobar=rhobar,
            cbar=cbar,
            sbar=sbar,
            zeta=zeta,
            zetabar=-sbar * old.zetabar,
            betadd=betadd,
            betad=betad,
            rhod=rhod,
            tautilde=tautilde,
            thetatilde=thetatilde,
            damped_part=damped_part,
            residual_norm=residual_norm,
            spectrum=old.spectrum.update(
                (alpha, beta), (inverse, theta), old.rhobar, rhotemp
            ),
        )
        return new, (
            -thetabar * rho * old.inverse,
            zeta * inverse * inversebar,
            -theta * inverse,
        )

    def combine(
        self, old: _Vectors, coefficients: tuple[Scalar, ...], pair: Pair
    ) -> _Vectors:
        to_hbar, to_iterate, to_h = coefficients
        hbar = tree.axpy(to_hbar, old.hbar, old.h)
        return _Vectors(
            iterate=tree.axpy(to_iterate, hbar, old.iterate),
            hbar=hbar,
            h=tree.axpy(to_h, old.h, pair),
        )

    def estimates(self, scalars: _Scalars) -> Estimates:
        return Estimates(
            residual_norm=scalars.residual_norm,
            normal_residual_norm=jnp.abs(scalars.zetabar),
            operator_norm=scalars.spectrum.norm,
            largest=scalars.spectrum.largest,
            smallest=scalars.spectrum.smallest,
            inverse_norm=tree.safe_sqrt(scalars.spectrum.inverse_norm_squared),
        )


LSMR.__init__.__doc__ = ARGUMENTS
