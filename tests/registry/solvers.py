"""The solvers, what each of them can solve, and what it says where it cannot."""

import dataclasses
from collections.abc import Callable
from typing import Any

import lineax as lx

import lsqflow as lf


@dataclasses.dataclass(frozen=True)
class Refusal:
    """An error while tracing: its class, and a part of what it says."""

    error: type[Exception]
    message: str


def _nothing(entry, problem):
    return None


def _always(entry, problem):
    return True


def _unusual(entry, problem):
    """What lineax's solvers do not know may be refused, if it is said what does."""
    if problem.mixed:
        return Refusal(TypeError, "linear over the real numbers only")
    if entry.half:
        return Refusal(TypeError, "LSMR")
    return None


@dataclasses.dataclass(frozen=True)
class Method:
    """A solver at a relative tolerance.

    `refuses` is what must be raised, and `may_refuse` what may be raised instead of a
    solution, while tracing. Where a solver is not `sure`, it may say that it failed.
    Nowhere may it call something else than the solution of least norm a success.
    """

    make: Callable[[float], lx.AbstractLinearSolver]
    refuses: Callable[[Any, Any], Refusal | None] = _nothing
    sure: Callable[[Any, Any], bool] = _always
    may_refuse: Callable[[Any, Any], Refusal | None] = _nothing


def _full_rank(entry, problem):
    return problem.full_rank


def _no_lucky_step(entry, problem):
    """BiCGStab divides by zero where its first half step hits the solution."""
    return _full_rank(entry, problem) and problem.condition > 1 + 1e-9


_SQUARE = Refusal(ValueError, "may only be used for linear solves with square matrices")


def _square_only(entry, problem):
    rows, columns = problem.matrix.shape
    return None if rows == columns else _SQUARE


def _same_ends_only(entry, problem):
    return None if problem.same_ends else _SQUARE


def _definite_only(entry, problem):
    if not problem.same_ends:
        return _SQUARE
    if entry.definite:
        return None
    message = (
        "`CG()` may only be used for positive or negative definite linear operators"
    )
    return Refusal(ValueError, message)


def _woodbury_only(entry, problem):
    if isinstance(problem.operator, lf.DiagonalPlusLowRank):
        return None
    return Refusal(TypeError, "`Woodbury` solves with a `lsqflow.DiagonalPlusLowRank`")


OURS = {
    "AutoSolver": Method(lambda tol: lf.AutoSolver()),
    "LSMR": Method(lambda tol: lf.LSMR()),
    "LSQR": Method(lambda tol: lf.LSQR()),
    "Woodbury": Method(lambda tol: lf.Woodbury(), _woodbury_only, may_refuse=_unusual),
}
_LINEAX = {
    "QR": Method(lambda tol: lf.QR(), sure=_full_rank),
    "SVD": Method(lambda tol: lf.SVD()),
    "Cholesky": Method(lambda tol: lf.Cholesky(), sure=_full_rank),
    "LU": Method(lambda tol: lx.LU(), _square_only, _full_rank),
    "CG": Method(lambda tol: lx.CG(tol, tol), _definite_only, _full_rank),
    "Normal(CG)": Method(lambda tol: lx.Normal(lx.CG(tol, tol)), sure=_full_rank),
    "GMRES": Method(lambda tol: lx.GMRES(tol, tol), _same_ends_only, _full_rank),
    "BiCGStab": Method(
        lambda tol: lx.BiCGStab(tol, tol), _same_ends_only, _no_lucky_step
    ),
    "AutoLinearSolver": Method(
        lambda tol: lx.AutoLinearSolver(well_posed=None), sure=_full_rank
    ),
    "AutoLinearSolver, ill-posed": Method(
        lambda tol: lx.AutoLinearSolver(well_posed=False)
    ),
    "lineax LSMR": Method(lambda tol: lx.LSMR(tol, tol)),
}


def _sure_of_usual(method):
    return lambda entry, problem: (
        method.sure(entry, problem) and not (problem.mixed or entry.half)
    )


LINEAX = {
    name: dataclasses.replace(method, sure=_sure_of_usual(method), may_refuse=_unusual)
    for name, method in _LINEAX.items()
}
ITERATIVE: dict[str, Method] = {
    name: OURS[name] for name in ("AutoSolver", "LSMR", "LSQR")
}
SOLVERS: dict[str, Method] = OURS | LINEAX
