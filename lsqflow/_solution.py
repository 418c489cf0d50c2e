"""What a solve returns: the solution, and an honest account of how it ended."""

from typing import Any

import equinox as eqx
import lineax as lx
from jaxtyping import Array, Bool, Float, PyTree


class StopReason(eqx.Enumeration):
    """Why a solver stopped; each value is a text that names the likely causes.

    `lf.StopReason[solution.stats["stop_reason"]]` is the text.
    """

    running = "The solver has not stopped yet."
    consistent = (
        "The residual is small: ‖b − A x‖ ≤ atol + rtol (‖A‖ ‖x‖ + ‖b‖). The system "
        "is consistent, and x solves it."
    )
    least_squares = (
        "The normal residual is small: ‖Aᴴ r − λ² x‖ ≤ atol + rtol ‖A‖ ‖r‖. The "
        "system is inconsistent or damped, and x solves the least-squares problem."
    )
    trivial = "The vector is zero, or orthogonal to the range of the operator: x = 0."
    direct = "A direct method computed the solution."
    precision = (
        "The tolerances ask for more than the dtype can give; the solver stopped at "
        "rounding level. Loosen rtol and atol, or use a wider dtype."
    )
    condition_limit = (
        "The estimated condition number of the operator exceeds `conlim`. The problem "
        "is (nearly) rank-deficient: add damping, precondition or rescale the "
        "operator, or raise `conlim` if the solution is still what you want."
    )
    max_steps_reached = (
        "The solver took `max_steps` steps without reaching its tolerances. Raise "
        "`max_steps`, loosen `rtol` and `atol`, add damping, or improve the "
        "conditioning of the operator; and check with `lf.check_adjoint` that `rmv` "
        "is the transpose of `mv`."
    )
    inaccurate = (
        "The recurrences reported convergence, but the residual computed from the "
        "solution does not confirm it. Rounding errors have taken over: the problem "
        "is too ill-conditioned for this dtype and tolerance, or `rmv` is not the "
        "transpose of `mv` (`lf.check_adjoint` tells). Use a wider dtype, damping, or "
        "a looser tolerance."
    )
    infeasible = (
        "The constraints contradict each other: no x satisfies all of them. The "
        "solution is a compromise of least squares."
    )
    nonfinite_input = (
        "The vector, the damping or the operator holds NaN or infinity. Check what "
        "comes before the solve."
    )
    nonfinite = (
        "NaN or infinity appeared during the solve although the input was finite: an "
        "overflow in this dtype, or a direct solver met a singular operator. Rescale "
        "the problem, use a wider dtype, or a solver for rank-deficient operators "
        "(`lf.LSMR`, `lf.SVD`)."
    )
    failed = (
        "The lineax solver that was asked to do the work failed: the operator is "
        "singular, or the method does not fit it. Use `lsqflow.LSMR` or `lsqflow.SVD`."
    )


_RESULTS = (
    (StopReason.condition_limit, lx.RESULTS.conlim),
    (StopReason.max_steps_reached, lx.RESULTS.max_steps_reached),
    (StopReason.inaccurate, lx.RESULTS.stagnation),
    (StopReason.infeasible, lx.RESULTS.singular),
    (StopReason.nonfinite_input, lx.RESULTS.nonfinite_input),
    (StopReason.nonfinite, lx.RESULTS.breakdown),
    (StopReason.failed, lx.RESULTS.singular),
)


def result_of(reason: StopReason) -> lx.RESULTS:
    """The lineax result that a stop reason stands for; successful if none is listed."""
    result = lx.RESULTS.successful
    for listed, outcome in _RESULTS:
        result = lx.RESULTS.where(reason == listed, outcome, result)
    return result


def from_lineax(result: lx.RESULTS) -> StopReason:
    """The stop reason for the result of one of lineax's own solvers."""
    reason = StopReason.where(
        result == lx.RESULTS.successful, StopReason.direct, StopReason.failed
    )
    for outcome, listed in (
        (lx.RESULTS.max_steps_reached, StopReason.max_steps_reached),
        (lx.RESULTS.conlim, StopReason.condition_limit),
        (lx.RESULTS.nonfinite_input, StopReason.nonfinite_input),
    ):
        reason = StopReason.where(result == outcome, listed, reason)
    return reason


def is_failure(reason: StopReason) -> Bool[Array, ""]:
    """Whether a stop reason means that the solution must not be trusted."""
    return result_of(reason) != lx.RESULTS.successful


class PrimalDual(eqx.Module):
    """The three vectors of one solve, which determine all its derivatives."""

    primal: PyTree[Array]
    dual: PyTree[Array]
    residual: PyTree[Array]


class Solution(eqx.Module):
    r"""The solution of `min ‖A x − b‖² + λ² ‖x‖²`.

    **Attributes:**

    - `value`: the minimiser $x$, with the structure of the operator's input; the one
        of least norm where it is not unique.
    - `residual`: $r = b - A x$, computed from `value` (not a recurrence), with the
        structure of the operator's output.
    - `dual`: $y = (A A^H + \lambda^2 I)^+ b$, so that $x = A^H y$: the Lagrange
        multiplier of the least-norm problem. With the structure of the output. Of the
        stacked problem's dual, it is the data's part where there are regularizers;
        `None` where there are bounds or equations.
    - `objective`: the minimum, $\|A x - b\|^2 + \lambda^2 \|x\|^2$, with weights and
        regularizers where there are any.
    - `result`: a `lineax.RESULTS`; `lineax.RESULTS.successful` if and only if the
        solution can be trusted to the tolerances of the solver.
    - `stats`: a dictionary of diagnostics. They carry no derivatives.
        `"num_steps"`; `"residual_norm"` ‖r‖ and `"normal_residual_norm"`
        ‖Aᴴ r − λ² x‖, both computed from `value`; `"operator_norm"` and `"condition"`,
        running (lower) estimates in the Frobenius norm and of the condition number;
        `"stop_reason"`, an [`lsqflow.StopReason`][].
    - `state`: the [`lsqflow.PrimalDual`][] that the derivatives of the solve need; it
        holds the same arrays as `value`, `dual` and `residual` before any change of
        variables (warm start, weights, …), and nothing else is kept for the backward
        pass.
    - `multipliers`: the Lagrange multipliers $\mu$ of `subject_to` or `bounds`; `None`
        without. With $g = A^H (A x - b) + \lambda^2 x$, half the gradient of the
        objective: for `C x = d` they have the structure of `d` and
        $g + C^H \mu = 0$; for bounds they have the structure of `x` and are $g$ where
        a bound holds x back, positive at a lower and negative at an upper one, and 0
        elsewhere.
    """

    value: PyTree[Array]
    residual: PyTree[Array]
    dual: PyTree[Array]
    objective: Float[Array, ""]
    result: lx.RESULTS
    stats: dict[str, Any]
    state: PyTree[Any]
    multipliers: PyTree[Array] | None = None
