"""How a solve ended: lineax's results, and more."""

import warnings
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, PyTree

from ._jax import known

_T = TypeVar("_T")

with warnings.catch_warnings():
    # Where a name is lineax's as well, our text replaces theirs.
    warnings.simplefilter("ignore")

    class StopReason(lx.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
        """Why a solver stopped: the items of `lineax.RESULTS`, and more.

        Each item stands for a text that names the likely causes and what to do.
        `lf.StopReason[solution.stats["stop_reason"]]` is the text. Compare items with
        `==`, also under `jit`: `stats["stop_reason"] == lf.StopReason.consistent`. What
        one of lineax's own solvers reports keeps its name and lineax's text.
        """

        running = "The solver has not stopped yet."
        consistent = (
            "The residual is small: ‖b − A x‖ ≤ atol + rtol (‖A‖ ‖x‖ + ‖b‖). The "
            "system is consistent, and x solves it."
        )
        least_squares = (
            "The normal residual is small: ‖Aᴴ r − λ² x‖ ≤ atol + rtol ‖A‖ ‖r‖. The "
            "system is inconsistent or damped, and x solves the least-squares problem."
        )
        trivial = (
            "The vector is zero, or orthogonal to the range of the operator: x = 0."
        )
        direct = "A direct method computed the solution."
        precision = (
            "The tolerances ask for more than the dtype can give; the solver stopped "
            "at rounding level. Loosen rtol and atol, or use a wider dtype."
        )
        interrupted = (
            "The solve was stopped from outside: by a callback, or by the time limit. "
            "Go on with `lsqflow.iterate(..., state=...)`."
        )
        condition_limit = (
            "The estimated condition number of the operator exceeds `conlim`. The "
            "problem is (nearly) rank-deficient: add damping, precondition or rescale "
            "the operator, or raise `conlim` if the solution is still what you want."
        )
        max_steps_reached = (
            "The solver took `max_steps` steps without reaching its tolerances. Raise "
            "`max_steps`, loosen `rtol` and `atol`, add damping, or improve the "
            "conditioning of the operator; and check with `lf.check_adjoint` that "
            "`rmv` is the transpose of `mv`."
        )
        inaccurate = (
            "The solver reported convergence, but the residual computed from the "
            "solution does not confirm it. Rounding errors have taken over: the "
            "problem is too ill-conditioned for this dtype and tolerance, or `rmv` is "
            "not the transpose of `mv` (`lf.check_adjoint` tells). Use a wider dtype, "
            "damping, or a looser tolerance."
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
            "NaN or infinity appeared during the solve although the input was finite: "
            "an overflow in this dtype, or a direct solver met a singular operator. "
            "Rescale the problem, use a wider dtype, or a solver for rank-deficient "
            "operators (`lf.LSMR`, `lf.SVD`)."
        )
        failed = (
            "The lineax solver that was asked to do the work failed: the operator is "
            "singular, or the method does not fit it. Use `lsqflow.LSMR` or "
            "`lsqflow.SVD`."
        )


_SUCCESSES: tuple[Any, ...] = (
    StopReason.successful,
    StopReason.consistent,
    StopReason.least_squares,
    StopReason.trivial,
    StopReason.direct,
    StopReason.precision,
)
# What lineax calls it. Reasons that are lineax's own keep their meaning.
_IN_LINEAX = (
    (StopReason.max_steps_reached, lx.RESULTS.max_steps_reached),
    (StopReason.condition_limit, lx.RESULTS.conlim),
    (StopReason.conlim, lx.RESULTS.conlim),
    (StopReason.nonfinite_input, lx.RESULTS.nonfinite_input),
    (StopReason.infeasible, lx.RESULTS.singular),
    (StopReason.singular, lx.RESULTS.singular),
    (StopReason.failed, lx.RESULTS.singular),
    (StopReason.stagnation, lx.RESULTS.stagnation),
)


_Item: Any = type(lx.RESULTS.successful)


class Outcome(_Item):
    """An item of `lineax.RESULTS` that also knows our reason.

    It compares equal to lineax's items. It prints, and raises, our text.
    """

    reason: StopReason

    def __repr__(self) -> str:
        failed = known_failures(self.reason)
        if failed is None:
            return super().__repr__()
        if failed.ndim:
            good = failed.size - np.count_nonzero(failed)
            first = first_failure(self.reason)
            text = "" if first is None else f"; the first failure: {first}"
            return f"<{good} of {failed.size} successful{text}>"
        word = "failed" if failed else "successful"
        if bool(self.reason == StopReason.interrupted):
            word = "interrupted"
        return f"<{word}: {StopReason[self.reason]}>"

    def error_if(self, token: PyTree[Array], pred: Any) -> PyTree[Array]:
        """Raise at run time where `pred` is true, with the text of the reason."""
        return self.reason.error_if(token, pred)


def _code(reason: Any) -> Any:
    """The number of an item of an enumeration."""
    return reason._value  # noqa: SLF001


def known_failures(reason: StopReason) -> np.ndarray | None:
    """Which of one or many solves failed, on the host; None while they are traced."""
    codes = known(_code(reason))
    good = [_code(StopReason.running), *map(_code, _SUCCESSES)]
    return None if codes is None else np.asarray(~np.isin(codes, good))


def first_failure(reason: StopReason) -> str | None:
    """The text of the first failure of one or many solves; None if there is none."""
    failed = np.asarray(known_failures(reason))
    if not failed.any():
        return None
    code = np.asarray(_code(reason))[failed].flat[0]
    return StopReason[_item(code)]


def _item(code: Any) -> Any:
    return _Item(np.asarray(code, np.int32), StopReason)


def name_of(reason: StopReason) -> str:
    """The name of a stop reason, in words."""
    for name in vars(StopReason)["_name_to_item"]:
        if bool(getattr(StopReason, name) == reason):
            return name.replace("_", " ")
    return "unknown"


def to_lineax(reason: StopReason) -> lx.RESULTS:
    """The item of `lineax.RESULTS` nearest to a stop reason."""
    result = lx.RESULTS.where(
        is_failure(reason), lx.RESULTS.breakdown, lx.RESULTS.successful
    )
    for listed, outcome in _IN_LINEAX:
        result = lx.RESULTS.where(reason == listed, outcome, result)
    return result


def result_of(reason: StopReason) -> lx.RESULTS:
    """The `result` of a solve: lineax's item for a reason, and the reason itself."""
    result: Any = to_lineax(reason)
    return Outcome(_code(result), lx.RESULTS, reason)


def from_lineax(result: lx.RESULTS) -> StopReason:
    """The stop reason for the result of one of lineax's own solvers."""
    reason = StopReason.promote(result)
    for theirs, ours in (
        (StopReason.successful, StopReason.direct),
        (StopReason.singular, StopReason.failed),
        (StopReason.conlim, StopReason.condition_limit),
    ):
        reason = StopReason.where(reason == theirs, ours, reason)
    return reason


def is_failure(reason: StopReason) -> Bool[Array, "..."]:
    """Whether a stop reason means that the solution must not be trusted."""
    success = reason == StopReason.running
    for good in _SUCCESSES:
        success |= reason == good
    return ~success


def raised(solution: _T, reason: StopReason) -> _T:
    """Return the solution, any pytree; raise if the solve failed.

    Where the reason is known, raise now, on the host. Otherwise raise at run time.
    """
    if known_failures(reason) is None:
        return checked(solution, reason, throw=True)
    text = first_failure(reason)
    if text is not None:
        raise eqx.EquinoxRuntimeError(text)
    return solution


def checked(solution: _T, reason: StopReason, throw: bool) -> _T:  # noqa: FBT001
    """Return the solution, any pytree; raise at run time if `throw` and it failed.

    The error hangs on a scalar of its own, a zero that is added to the vectors. So no
    vector passes through the host, whatever its size and sharding, and the compiler
    cannot drop the check.
    """
    if not throw:
        return solution
    failed = is_failure(reason)
    # In a batch, the text is that of the largest number, also of elements that did not
    # fail: these get the smallest one.
    reason = StopReason.where(failed, reason, _SUCCESSES[0])
    token = reason.error_if(jnp.zeros(()), failed)
    return jax.tree.map(lambda x: x + token.astype(x.dtype), solution)
