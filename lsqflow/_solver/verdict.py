"""When a solution is good enough: one set of rules, for every way of solving.

Iterations ask the rules at each step, with what their recurrences know. At the end of
any solve, `verdict` asks them again, with residuals computed from the solution.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .. import _tree as tree
from .._outcome import StopReason, is_failure
from .._problem.problem import Problem
from .._tree import Vector

Scalar = Float[Array, ""]

# How far true residuals may lie above what was asked for before a solve is called
# inaccurate; the estimates of recurrences drift by small factors.
_SLACK = 10.0
# Residuals below this many units of rounding, relative to ‖A‖ ‖x‖ + ‖b‖, are noise.
NOISE = 10.0
# A solve that asks for more than half the digits of its dtype, and has an estimated
# error of this much of its solution, has failed, however small its residuals are.
_NO_DIGITS = 0.02


class Evidence(eqx.Module):
    """The norms that tell how good a solution is, computed or estimated.

    Residuals are those of the damped problem: ‖(b − A x, λ x)‖ and ‖Aᴴ r − λ² x‖.
    `inverse_norm` is a lower bound of ‖A⁺‖.
    """

    residual_norm: Scalar
    normal_residual_norm: Scalar
    solution_norm: Scalar
    vector_norm: Scalar
    operator_norm: Scalar
    inverse_norm: Scalar | None = None

    @property
    def size(self) -> Scalar:
        """‖A‖ ‖x‖ + ‖b‖: what residuals are compared with."""
        return self.operator_norm * self.solution_norm + self.vector_norm

    @property
    def relative_error(self) -> Scalar:
        """An estimate of ‖x* − x‖ / ‖x‖, from `x* − x = A⁺ r = (Aᴴ A)⁺ (Aᴴ r)`."""
        inverse = self.solution_norm * tree.safe_reciprocal(self.vector_norm)
        if self.inverse_norm is not None:
            inverse = jnp.maximum(inverse, self.inverse_norm)
        error = jnp.minimum(
            self.residual_norm * inverse, self.normal_residual_norm * inverse * inverse
        )
        return error * tree.safe_reciprocal(self.solution_norm)


class Tolerances(eqx.Module):
    """The rules of Paige and Saunders (1982), in the problem's scalar dtype.

    consistent:    ‖r‖ ≤ atol + rtol (‖A‖ ‖x‖ + ‖b‖)
    least squares: ‖Aᴴ r − λ² x‖ ≤ atol + rtol ‖A‖ ‖r‖

    SciPy's `atol = btol` is `rtol` here. SciPy has nothing like our `atol`, which is in
    the units of ‖r‖ and ‖Aᴴ r‖. `eps` is the accuracy of computed residuals.
    """

    rtol: Scalar
    atol: Scalar
    eps: float = eqx.field(static=True)

    @classmethod
    def of(
        cls, problem: Problem, rtol: Scalar | float | None, atol: Scalar | float = 0.0
    ) -> "Tolerances":
        """The tolerances for a problem. By default, `rtol` is ε to the power of ¾."""
        dtype = tree.scalar_dtype(problem.vector)
        rtol = problem.eps**0.75 if rtol is None else rtol
        return cls(jnp.asarray(rtol, dtype), jnp.asarray(atol, dtype), problem.eps)

    @classmethod
    def half_the_digits(
        cls, problem: Problem, atol: Scalar | float = 0.0
    ) -> "Tolerances":
        """The tolerances for methods that have none of their own."""
        return cls.of(problem, problem.eps**0.5, atol)

    def consistent(self, now: Evidence, slack: float = 1.0) -> Bool[Array, ""]:
        """Whether the residual is small. With slack, it may also be mere rounding."""
        bound = slack * (self.atol + self.rtol * now.size)
        if slack > 1:
            bound += NOISE * self.eps * now.size
        return now.residual_norm <= bound

    def least_squares(self, now: Evidence, slack: float = 1.0) -> Bool[Array, ""]:
        """Whether the normal residual is small. With slack, it may be mere rounding.

        The rounding of the normal residual is ‖A‖ times that of the residual.
        """
        scale = now.operator_norm * now.residual_norm
        bound = slack * (self.atol + self.rtol * scale)
        if slack > 1:
            bound += NOISE * self.eps * now.operator_norm * now.size
        return now.normal_residual_norm <= bound

    def inconsistent(self, now: Evidence) -> Bool[Array, ""]:
        """Whether x solves the least-squares problem, and not the system."""
        return self.least_squares(now, _SLACK) & ~self.consistent(now, _SLACK)

    def reason(
        self, now: Evidence, *, computed: bool = False, slack: float = 1.0
    ) -> StopReason:
        """The rule that holds, or `running`. Where several hold, the best news.

        `computed` residuals stop falling at their rounding error. Those of a recurrence
        go on falling.
        """
        scale = now.operator_norm * now.residual_norm
        if computed:
            floor = slack * self.eps * now.operator_norm * now.size
            precise = now.normal_residual_norm <= floor
        else:
            precise = now.normal_residual_norm <= 0.5 * self.eps * scale
            precise |= now.residual_norm <= 0.5 * self.eps * now.size
        small = now.normal_residual_norm <= slack * (self.atol + self.rtol * scale)
        solved = now.residual_norm <= slack * (self.atol + self.rtol * now.size)
        reason = StopReason.running
        for holds, candidate in (
            (precise, StopReason.precision),
            (small, StopReason.least_squares),
            (solved, StopReason.consistent),
        ):
            reason = StopReason.where(holds, candidate, reason)
        return reason


def gather(
    problem: Problem,
    x: Vector,
    *,
    residual: Vector,
    gradient: Vector,
    operator_norm: Scalar,
    inverse_norm: Scalar | None = None,
) -> Evidence:
    """The evidence, computed from a solution and its residuals."""
    return Evidence(
        residual_norm=problem.residual_norm(x, residual),
        normal_residual_norm=tree.norm(gradient),
        solution_norm=tree.norm(x),
        vector_norm=tree.norm(problem.vector),
        operator_norm=operator_norm,
        inverse_norm=inverse_norm,
    )


def verdict(
    claim: StopReason,
    now: Evidence,
    tolerances: Tolerances,
    *,
    first_normal_norm: Scalar | None = None,
    digits: bool = True,
) -> StopReason:
    """Judge what a method claims by the evidence; return the true reason.

    **Arguments:**

    - `claim`: why the method stopped.
    - `now`: norms computed from the solution.
    - `tolerances`: what the method was asked for.
    - `first_normal_norm`: ‖Aᴴ b‖. Where x = 0 already meets the tolerance, the
        estimated error of the solution is not judged.
    - `digits`: whether to judge the estimated error of the solution as well. False
        where an inner solver has been judged by it already, with other tolerances.
    """
    confirmed = tolerances.consistent(now, _SLACK)
    confirmed |= tolerances.least_squares(now, _SLACK)
    hollow = now.relative_error > jnp.maximum(_NO_DIGITS, _SLACK * tolerances.rtol)
    hollow &= digits & (tolerances.rtol <= tolerances.eps**0.5)
    if first_normal_norm is not None:
        scale = now.operator_norm * now.vector_norm
        hollow &= first_normal_norm > _SLACK * (
            tolerances.atol + tolerances.rtol * scale
        )
    claimed = ~is_failure(claim) & (claim != StopReason.trivial)
    false_claim = claimed & (~confirmed | hollow)
    reason = StopReason.where(false_claim, StopReason.inaccurate, claim)
    finite = jnp.isfinite(now.normal_residual_norm) & jnp.isfinite(now.solution_norm)
    broken = ~finite & (reason != StopReason.nonfinite_input)
    return StopReason.where(broken, StopReason.nonfinite, reason)


def feasible(problem: Problem, x: Vector, residual: Vector) -> Bool[Array, ""]:
    """Whether the equations `A x = b` hold to half the digits of the dtype."""
    operator, vector = problem.operator, problem.vector
    zero = jnp.zeros((), tree.scalar_dtype(vector))
    now = Evidence(
        residual_norm=tree.norm(residual),
        normal_residual_norm=zero,
        solution_norm=tree.norm(x),
        vector_norm=tree.norm(vector),
        operator_norm=norm_estimate(problem, x, operator.mv(x)),
    )
    return Tolerances.half_the_digits(problem).consistent(now)


def norm_estimate(problem: Problem, x: Vector, image: Vector) -> Scalar:
    """A bound of ‖A‖ from below, from `A x` and one product with the vector."""
    vector = problem.vector
    back = problem.operator.adjoint_mv(vector)
    return jnp.maximum(
        tree.norm(image) * tree.safe_reciprocal(tree.norm(x)),
        tree.norm(back) * tree.safe_reciprocal(tree.norm(vector)),
    )
