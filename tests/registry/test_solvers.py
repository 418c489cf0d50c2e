"""Each operator with each solver in `lf.lstsq`: NumPy's answer, or a listed refusal.

All solvers of one operator are one program, since half of a small program's time is
spent before and after its compilation.
"""

import equinox as eqx
import jax
import lineax as lx
import numpy as np
import pytest

import lsqflow as lf

from . import reference
from .operators import OPERATORS
from .solvers import SOLVERS, Refusal


@eqx.filter_jit
def _solve(operator, vector, methods):
    values, errors = {}, {}
    for name, solver in methods.items():
        try:
            solution = lf.lstsq(operator, vector, solver, throw=False)
        except Exception as error:  # noqa: BLE001  which one is what is tested
            errors[name] = error
        else:
            values[name] = solution.value, solution.result == lx.RESULTS.successful
    return values, errors


def _listed(error: Exception, refusal: Refusal | None) -> bool:
    """Whether an exception is of the listed class and says what is listed."""
    return (
        refusal is not None
        and isinstance(error, refusal.error)
        and refusal.message in str(error)
    )


def _fault(name, entry, problem, values, errors):
    """What is wrong with a cell; `None` if nothing is."""
    method = SOLVERS[name]
    refusal = method.refuses(entry, problem)
    allowed = refusal, method.may_refuse(entry, problem)
    if name in errors:
        error = errors[name]
        if any(_listed(error, one) for one in allowed):
            return None
        expected = [one for one in allowed if one is not None]
        said = f"raises {type(error).__name__}: {str(error)[:200]}"
        return f"{said}; listed are {expected}"
    if refusal is not None:
        return f"solves, and should raise {refusal}"
    value, successful = values[name]
    for got, want in zip(
        jax.tree.leaves(value),
        jax.tree.leaves(reference.structures(problem.operator)[0]),
        strict=True,
    ):
        if (got.shape, got.dtype) != (want.shape, want.dtype):
            return f"gives {got.dtype}{got.shape} for {want.dtype}{want.shape}"
    error = problem.error(value)
    if successful:
        wrong = not error < problem.tolerance
        return f"is wrong by {error:.1e}, and called successful" if wrong else None
    if method.sure(entry, problem):
        return f"is called a failure; it is wrong by {error:.1e}"
    return None


def _one_by_one(operator, vector, methods):
    """Where the common program cannot be compiled: which solver's fault it is."""
    values, errors = {}, {}
    for name, solver in methods.items():
        try:
            got, raised = _solve(operator, vector, {name: solver})
            jax.block_until_ready(got)
        except Exception as error:  # noqa: BLE001
            raised = {name: error}
        else:
            values |= got
        errors |= raised
    return values, errors


def faults(name):
    """Every solver for one operator."""
    entry = OPERATORS[name]
    problem = reference.problem(entry, 0, np.float64)
    assert problem.condition <= 30
    methods = {n: method.make(problem.eps**0.75) for n, method in SOLVERS.items()}
    operator = problem.operator
    if hasattr(operator, "tocsr"):  # no argument of a jitted function
        operator = lf.as_operator(operator)
    try:
        outcome = _solve(operator, problem.vector, methods)
        jax.block_until_ready(outcome[0])
    except Exception:  # noqa: BLE001
        outcome = _one_by_one(operator, problem.vector, methods)
    found = {n: _fault(n, entry, problem, *outcome) for n in SOLVERS}
    return {n: fault for n, fault in found.items() if fault}


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(name, marks=pytest.mark.slow) if entry.slow else name
        for name, entry in OPERATORS.items()
    ],
)
def test_each_operator_with_each_solver(operator):
    found = [f"{operator} × {n}: {fault}" for n, fault in faults(operator).items()]
    assert not found, "\n".join(found)
